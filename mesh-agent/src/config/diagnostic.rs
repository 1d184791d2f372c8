//! What is wrong with a configuration, where, and what to do about it.
//!
//! A diagnostic is data: the log, `mesh-agent diagnostics` and tests print the same value. Codes are stable: scripts
//! may match on them, so a code is never given a second meaning.

use super::resource::{ObjectKey, Provenance};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    /// The object at fault; none where a document could not be read far enough to have a name.
    #[serde(flatten)]
    pub object: Option<ObjectKey>,
    pub file: Option<Arc<Path>>,
    /// 1-based; the field's line where it is known, else the object's first line.
    pub line: Option<u32>,
    /// `spec.ports[0].targetPort`; empty where the object as a whole is meant.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where nothing needs doing.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the part named, is not in force.
    Error,
    /// In force, but probably not what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        /// Every kind of finding: `IST…` where Istio has a code for it (istio/istio `analysis/msg`), `UM…` beyond. The
        /// list exists once; `--help` and the docs are made from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// `UM0101`
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
            /// One line for a list of codes.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    Deprecated = "IST0002", "a field that Istio calls deprecated";
    ReferencedResourceNotFound = "IST0101", "an object names another one that is not there";
    NamespaceNotInjected = "IST0102", "pods are outside the mesh because their namespace has no label";
    SchemaValidationError = "IST0106", "a field's value is not valid";
    MisplacedAnnotation = "IST0107", "an annotation that stands where nobody reads it";
    UnknownAnnotation = "IST0108", "an annotation that nobody knows";
    ConflictingMeshGatewayVirtualServiceHosts = "IST0109", "two VirtualServices with one host";
    ConflictingSidecarWorkloadSelectors = "IST0110", "two Sidecars that select one pod";
    MultipleSidecarsWithoutWorkloadSelectors = "IST0111", "two Sidecars for a whole namespace";
    VirtualServiceDestinationPortSelectorRequired = "IST0112", "a destination with several ports and none named";
    DeploymentAssociatedToMultipleServices = "IST0116", "one port of the same pods with different protocols in two Services";
    PortNameIsNotUnderNamingConvention = "IST0118", "a port whose name or appProtocol does not say its protocol";
    InvalidRegexp = "IST0122", "a regular expression is malformed";
    NamespaceMultipleInjectionLabels = "IST0123", "a namespace with several labels that enrol its pods";
    InvalidAnnotation = "IST0125", "an annotation's value that is not valid";
    NoServerCertificateVerificationDestinationLevel = "IST0128", "a server's certificate is not verified";
    NoServerCertificateVerificationPortLevel = "IST0129", "a server's certificate is not verified on a port";
    VirtualServiceUnreachableRule = "IST0130", "a rule that is never reached";
    VirtualServiceIneffectiveMatch = "IST0131", "a match that is never reached";
    VirtualServiceHostNotFoundInGateway = "IST0132", "a host that the gateway does not serve";
    SchemaWarning = "IST0133", "a field's value is valid, but hardly what was meant";
    ServiceEntryAddressesRequired = "IST0134", "a TCP host without an address of its own";
    DeprecatedAnnotation = "IST0135", "an annotation that Istio calls deprecated";
    DeploymentConflictingPorts = "IST0137", "one targetPort of the same pods under different ports in two Services";
    GatewayDuplicateCertificate = "IST0138", "two Gateways with one certificate and different hosts";
    IngressRouteRulesNotAffected = "IST0140", "subsets chosen for the mesh and not for a gateway";
    ConflictingGateways = "IST0145", "two Gateways for the same pods, port and hosts";
    JwtClaimBasedRoutingWithoutRequestAuthN = "IST0149", "a match on claims of a JWT that nobody validates";
    InvalidTelemetryProvider = "IST0157", "access logging that names no provider and says nothing else";
    ConflictingTelemetryWorkloadSelectors = "IST0159", "two Telemetries that select one pod";
    MultipleTelemetriesWithoutWorkloadSelectors = "IST0160", "two Telemetries for a whole namespace";
    GatewayPortNotDefinedOnService = "IST0162", "a Gateway's port that no Service of its pods leads to";
    ReferencedInternalGateway = "IST0165", "a Gateway that Istio makes of a Gateway API Gateway, named by a VirtualService";
    IneffectivePolicy = "IST0167", "an object whose pods are all outside the mesh";
    DestinationRuleSubsetNotSelectPods = "IST0173", "a subset without pods";
    UnknownDestinationRuleHost = "IST0174", "a DestinationRule for a host that nobody has";
    ConflictingServiceEntryProtocol = "IST0177", "two ServiceEntries with one host and port and different protocols";
    Unreadable = "UM0001", "a file or folder cannot be read";
    Syntax = "UM0002", "a document is not well-formed YAML or JSON";
    NotAnObject = "UM0003", "a document is not a Kubernetes object (no apiVersion or kind)";
    NotYetRead = "UM0004", "a known kind that this version does not act on";
    UnknownKind = "UM0005", "an unknown kind";
    BadField = "UM0006", "a field's value has the wrong type or form";
    UnknownField = "UM0007", "a field that the kind does not have";
    NoName = "UM0008", "an object without metadata.name";
    DefinedTwice = "UM0009", "one object is defined twice, differently";
    LastGoodKept = "UM0010", "a file is broken; the last good version of its objects stays in force";
    UnknownVersion = "UM0011", "an apiVersion that this version does not know for the kind";
    NoEndpoints = "UM0101", "a Service without endpoints";
    AddressTaken = "UM0102", "two Services with one address";
    NoClusterIp = "UM0104", "a Service without a cluster IP";
    BadAnnotation = "UM0105", "an annotation's value is not one we know";
    BadAddress = "UM0106", "not an IP address";
    DuplicatePort = "UM0107", "one port number is declared twice";
    NoSuchTargetPort = "UM0108", "targetPort names a port that no matching pod has";
    ExternalName = "UM0109", "an ExternalName Service is not balanced";
    NotSupported = "UM0110", "a field that this version does not act on";
    BadPort = "UM0111", "not a port number";
    BadPolicy = "UM0112", "a RequestPolicy that cannot be in force as written";
    HostTaken = "UM0113", "two ServiceEntries of a namespace with one host";
    HostNetwork = "UM0201", "a pod on the host's network cannot be in the mesh";
    PodAddressTaken = "UM0202", "two pods with one address";
    NoNetns = "UM0203", "a pod's network namespace is not known";
    ListenUnknown = "UM0301", "--listen names a Service port that is not configured";
    RefNotPermitted = "UM0401", "a reference to another namespace that no ReferenceGrant allows";
    BadReference = "UM0402", "a reference to something that cannot be used there";
    UnsupportedFilter = "UM0403", "a filter that is not supported: its rule or backend answers 500";
    RivalRoutes = "UM0404", "two families' routes for one host";
    NotAttached = "UM0405", "a route that its parent does not take";
    BadListener = "UM0406", "a Gateway's listener that cannot be opened";
    PortConflict = "UM0407", "servers that cannot share a port or a host";
    BadCertificate = "UM0408", "a Secret without a usable certificate, named by a Gateway or DestinationRule";
}

/// Istio's other codes, and why none of them is ever said here: who looks for one finds the answer.
const NEVER: &[(&str, &str, &str)] = &[
    ("IST0001", "InternalError", "a bug of the tool; ours ends with an error of the command"),
    ("IST0103", "PodMissingProxy", "there are no sidecars; `mesh-agent status` says which pods are in the mesh"),
    ("IST0113", "MTLSPolicyConflict", "PeerAuthentication is not acted on yet (UM0004)"),
    ("IST0119", "JwtFailureDueToInvalidServicePortPrefix", "RequestAuthentication is not acted on yet (UM0004)"),
    ("IST0126", "UnknownMeshNetworksServiceRegistry", "there are no mesh networks"),
    ("IST0127", "NoMatchingWorkloadsFound", "said as IST0101, with the selector's field"),
    ("IST0136", "AlphaAnnotation", "`istioctl analyze` leaves it out too: Istio's own defaults are alpha"),
    ("IST0139", "InvalidWebhook", "there are no webhooks"),
    ("IST0141", "InsufficientPermissions", "`mesh-agent install` asks the API server itself, and says what it refuses"),
    ("IST0142", "UnsupportedKubernetesVersion", "the agent's start says what is missing of what it needs"),
    ("IST0143", "LocalhostListener", "it needs a sidecar's list of sockets; such a port refuses connections (UF)"),
    ("IST0144", "InvalidApplicationUID", "no user ID is reserved: pods are told by their network namespace"),
    ("IST0146", "ImageAutoWithoutInjectionWarning", "no container is injected"),
    ("IST0147", "ImageAutoWithoutInjectionError", "no container is injected"),
    ("IST0148", "NamespaceInjectionEnabledByDefault", "no namespace is in the mesh without a label"),
    ("IST0150", "ExternalNameServiceTypeInvalidPortName", "ExternalName Services are said as UM0109"),
    ("IST0151", "EnvoyFilterUsesRelativeOperation", "there is no Envoy: every EnvoyFilter is said as UM0110"),
    ("IST0152", "EnvoyFilterUsesReplaceOperationIncorrectly", "as IST0151"),
    ("IST0153", "EnvoyFilterUsesAddOperationIncorrectly", "as IST0151"),
    ("IST0154", "EnvoyFilterUsesRemoveOperationIncorrectly", "as IST0151"),
    ("IST0155", "EnvoyFilterUsesRelativeOperationWithProxyVersion", "as IST0151"),
    (
        "IST0156",
        "UnsupportedGatewayAPIVersion",
        "all versions of a kind are read; one that is not known is said as UM0011",
    ),
    ("IST0158", "PodsIstioProxyImageMismatchInNamespace", "pods have no proxy's image"),
    ("IST0161", "InvalidGatewayCredential", "said as UM0408, which names what is wrong with the Secret"),
    ("IST0163", "InvalidExternalControlPlaneConfig", "there is no control plane to reach"),
    ("IST0164", "ExternalControlPlaneAddressIsNotAHostname", "there is no control plane to reach"),
    ("IST0166", "IneffectiveSelector", "a selector holds for pods of Gateway API Gateways as for any others"),
    ("IST0168", "UnknownUpgradeCompatibility", "Istio's own defaults between its releases"),
    ("IST0169", "UpdateIncompatibility", "Istio's own defaults between its releases"),
    ("IST0170", "MultiClusterInconsistentService", "an agent sees one cluster"),
    (
        "IST0171",
        "NegativeConditionStatus",
        "the agents write the conditions; each reason for a negative one is a finding",
    ),
    ("IST0175", "JwksUriFetchUnrestricted", "RequestAuthentication is not acted on yet, nothing is fetched"),
    (
        "IST0176",
        "(since Istio 1.30)",
        "Gateway API kinds are read whatever the version of their definitions, none is filtered",
    ),
];

/// The page of codes (`mesh-agent/DIAGNOSTICS.md`).
pub fn doc_page() -> String {
    let mut page = String::from(
        "# What may be found in a configuration\n\nMade from `mesh-agent/src/config/diagnostic.rs`; a test keeps it fresh. \
         `IST` codes mean what they mean to `istioctl analyze`, `UM` codes are beyond those.\n\n| code | name | found |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        page += &format!("| `{code}` | {code:?} | {} |\n", code.title());
    }
    page += "\n## Istio's codes that are never said\n\n| code | name | why |\n|---|---|---|\n";
    for (code, name, why) in NEVER {
        page += &format!("| `{code}` | {name} | {why} |\n");
    }
    page
}

impl Diagnostic {
    pub fn new(severity: Severity, code: Code, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            object: None,
            file: None,
            line: None,
            field: String::new(),
            message: message.into(),
            fix: String::new(),
        }
    }

    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    pub fn info(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, code, message)
    }

    #[must_use]
    pub fn object(mut self, key: &ObjectKey) -> Self {
        self.object = Some(key.clone());
        self
    }

    #[must_use]
    pub fn at(mut self, place: &Provenance) -> Self {
        self.file = place.is_file().then(|| Arc::clone(&place.file));
        self.line = place.is_file().then_some(place.line);
        self
    }

    #[must_use]
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field = path.into();
        self
    }

    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// `error UM0006 demo.yaml:12 Service shop/cart spec.ports[0].port: what is wrong. Fix: what to do`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.code)?;
        if let Some(file) = &self.file {
            write!(f, " {}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, ". Fix: {}", self.fix)?;
        }
        Ok(())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resource::Kind;

    #[test]
    fn one_line_names_place_object_field_and_fix() {
        let place = Provenance { file: Path::new("demo.yaml").into(), line: 12, document: 1 };
        let key = ObjectKey::new(Kind::Service, "shop", "cart");
        let d = Diagnostic::error(Code::BadField, "is text").object(&key).at(&place).field("spec.x").fix("write 1");
        assert_eq!(d.to_string(), "error UM0006 demo.yaml:12 Service shop/cart spec.x: is text. Fix: write 1");
        let json = serde_json::to_value(&d).unwrap();
        assert_eq!(json["code"], "UM0006");
        assert_eq!(
            (&json["kind"], &json["namespace"], &json["name"]),
            (&"Service".into(), &"shop".into(), &"cart".into())
        );
    }

    #[test]
    fn committed_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/DIAGNOSTICS.md");
        if std::env::var_os("UNDERMESH_BLESS").is_some() {
            std::fs::write(path, doc_page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), doc_page(), "run this test with UNDERMESH_BLESS=1");
    }

    #[test]
    fn codes_are_unique() {
        let mut ids: Vec<_> = Code::ALL.iter().map(|code| code.id()).collect();
        ids.dedup();
        assert_eq!(ids.len(), Code::ALL.len());
        assert!(ids.is_sorted());
        assert!(NEVER.is_sorted());
        assert!(NEVER.iter().all(|(code, ..)| !ids.contains(code)));
    }
}
