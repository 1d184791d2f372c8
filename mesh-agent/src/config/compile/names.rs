//! Names in Istio's objects (SEMANTICS §1): short hosts, gateways, `exportTo`.

use crate::snapshot::route::{MESH, Visibility};
use std::net::IpAddr;
use std::sync::Arc;

/// A host as an object of `namespace` writes it → FQDN: a name without a dot is a Service of the namespace. Lower case,
/// because hosts are compared so (RFC 4343).
pub(super) fn fqdn(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    if host.contains(['.', '*', ':']) || host.is_empty() || host.parse::<IpAddr>().is_ok() {
        return host.trim_end_matches('.').to_ascii_lowercase().into();
    }
    format!("{}.{namespace}.svc.{domain}", host.to_ascii_lowercase()).into()
}

/// `name`, `namespace/name`, or the old `name.namespace.svc.cluster.local` → `namespace/name`; `mesh` stays.
pub(super) fn gateway(name: &str, namespace: &str) -> Arc<str> {
    if name == MESH || name.contains('/') {
        return name.into();
    }
    let mut parts = name.split('.');
    match (parts.next(), parts.next()) {
        (Some(gateway), Some(namespace)) => format!("{namespace}/{gateway}").into(),
        _ => format!("{namespace}/{name}").into(),
    }
}

/// Empty: the mesh's default.
pub(super) fn visibility(export_to: &[Arc<str>], default: &Visibility) -> Visibility {
    let has = |what: &str| export_to.iter().any(|e| &**e == what);
    match export_to {
        [] => default.clone(),
        _ if has("*") => Visibility::Public,
        [only] if &**only == "." => Visibility::Private,
        _ if has("~") => Visibility::Nobody,
        list => {
            let mut list = list.to_vec();
            list.sort();
            list.dedup();
            Visibility::Namespaces(list)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_services_of_the_objects_namespace() {
        for (host, want) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("example.com.", "example.com"),
            ("*", "*"),
            ("*.Example.com", "*.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(&*fqdn(host, "shop", "cluster.local"), want);
        }
        for (name, want) in [("mesh", "mesh"), ("g", "shop/g"), ("x/g", "x/g"), ("g.x.svc.cluster.local", "x/g")] {
            assert_eq!(&*gateway(name, "shop"), want);
        }
    }

    #[test]
    fn export_to() {
        let of =
            |list: &[&str]| visibility(&list.iter().map(|s| Arc::from(*s)).collect::<Vec<_>>(), &Visibility::Public);
        assert_eq!(of(&[]), Visibility::Public);
        assert_eq!(of(&["."]), Visibility::Private);
        assert_eq!(of(&["b", "*"]), Visibility::Public);
        assert_eq!(of(&["~"]), Visibility::Nobody);
        assert_eq!(of(&["b", ".", "b"]), Visibility::Namespaces(vec![".".into(), "b".into()]));
    }
}
