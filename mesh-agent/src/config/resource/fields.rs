//! Every field path of the objects we read, with what becomes of it.
//!
//! The tables serve three readers: misspelt fields are found with what was meant, fields without effect here are
//! named, and the list of supported fields in the documentation is printed from them.

use super::schema::fields;
use super::{Kind, mesh_config};
use serde_yaml_ng::Value;
use std::fmt::Write as _;

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) support: Support,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A scalar, a list of scalars, a map of scalars; or a part of Kubernetes' objects that is not looked into.
    Leaf,
    Message(&'static [Field]),
    List(&'static [Field]),
    /// Keys are the user's.
    Map(&'static [Field]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    Yes,
    /// Why it has no effect, or what to write instead.
    No(&'static str),
}

pub(crate) const fn leaf(name: &'static str) -> Field {
    Field { name, shape: Shape::Leaf, support: Support::Yes }
}

pub(crate) const fn message(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Message(fields), support: Support::Yes }
}

pub(crate) const fn list(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::List(fields), support: Support::Yes }
}

pub(crate) const fn map(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Map(fields), support: Support::Yes }
}

pub(crate) const fn no(name: &'static str, why: &'static str) -> Field {
    Field { name, shape: Shape::Leaf, support: Support::No(why) }
}

/// Something about one field of one object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// `spec.ports[0].targetport`
    pub(crate) path: String,
    pub(crate) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The kind has no such field; holds the one that was probably meant.
    Unknown(Option<&'static str>),
    /// The kind has it, we do not act on it; holds why.
    NoEffect(&'static str),
}

/// Every misspelt field and every field without effect.
pub(crate) fn check(fields: &'static [Field], object: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    walk(fields, object, "", &mut found);
    found
}

fn walk(fields: &'static [Field], value: &Value, path: &str, found: &mut Vec<Finding>) {
    let Some(map) = value.as_mapping() else { return };
    for (name, value) in map.iter().filter_map(|(name, value)| Some((name.as_str()?, value))) {
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            found.push(Finding { path, what: What::Unknown(meant(fields, name)) });
            continue;
        };
        if let Support::No(why) = field.support {
            found.push(Finding { path, what: What::NoEffect(why) });
            continue;
        }
        match field.shape {
            Shape::Leaf => {}
            Shape::Message(inner) => walk(inner, value, &path, found),
            Shape::List(inner) => {
                for (i, item) in value.as_sequence().into_iter().flatten().enumerate() {
                    walk(inner, item, &format!("{path}[{i}]"), found);
                }
            }
            Shape::Map(inner) => {
                for (key, item) in value.as_mapping().into_iter().flatten() {
                    walk(inner, item, &format!("{path}[{}]", key.as_str().unwrap_or("?")), found);
                }
            }
        }
    }
}

fn meant(fields: &'static [Field], name: &str) -> Option<&'static str> {
    let near = fields.iter().map(|field| (distance(name, field.name), field.name)).filter(|(d, _)| *d <= 2).min();
    // `match_type` and `matchType` are further apart than two letters when there are many underscores.
    let plain = name.replace('_', "");
    near.map(|(_, name)| name).or_else(|| fields.iter().map(|f| f.name).find(|f| f.eq_ignore_ascii_case(&plain)))
}

/// Levenshtein distance, case-blind: `targetport` is 0 from `targetPort`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `spec.http[].match[].uri.exact`, with its support, for every leaf.
fn leaves(fields: &'static [Field]) -> Vec<(String, Support)> {
    fn collect(fields: &'static [Field], path: &str, found: &mut Vec<(String, Support)>) {
        for field in fields {
            let path = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
            match field.shape {
                Shape::Message(inner) if !inner.is_empty() => collect(inner, &path, found),
                Shape::List(inner) if !inner.is_empty() => collect(inner, &format!("{path}[]"), found),
                Shape::Map(inner) if !inner.is_empty() => collect(inner, &format!("{path}[*]"), found),
                _ => found.push((path, field.support)),
            }
        }
    }
    let mut found = Vec::new();
    collect(fields, "", &mut found);
    found
}

/// The page of supported fields (`mesh-agent/FIELDS.md`).
pub fn doc_page() -> String {
    let mut page = String::from(
        "# Fields that are acted on\n\nMade from the tables in `mesh-agent/src/config/resource`; a test keeps it fresh. \
         A field that is not listed does not exist: it is reported as `UM0007`, one that has no effect as `UM0110`.\n",
    );
    for kind in Kind::ALL.iter().filter(|kind| kind.is_traffic()) {
        let _ = write!(page, "\n## {kind}\nVersions: {}\n\n", kind.versions().join(", "));
        table(leaves(fields(*kind)).iter().filter(|(path, _)| path.starts_with("spec")), &mut page);
    }
    page += "\n## MeshConfig\nThe key `mesh` of the ConfigMap `istio` in `istio-system`.\n\n";
    table(leaves(mesh_config::FIELDS).iter(), &mut page);
    page
}

fn table<'a>(rows: impl Iterator<Item = &'a (String, Support)>, page: &mut String) {
    *page += "| field | acted on |\n|---|---|\n";
    for (path, support) in rows {
        let _ = match support {
            Support::Yes => writeln!(page, "| `{path}` | yes |"),
            Support::No(why) => writeln!(page, "| `{path}` | no: {why} |"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/FIELDS.md");
        if std::env::var_os("UNDERMESH_BLESS").is_some() {
            std::fs::write(path, doc_page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), doc_page(), "run this test with UNDERMESH_BLESS=1");
    }

    #[test]
    fn names_of_one_message_are_different() {
        fn visit(fields: &'static [Field]) {
            for (i, field) in fields.iter().enumerate() {
                assert!(fields[..i].iter().all(|other| other.name != field.name), "{}", field.name);
                if let Shape::Message(inner) | Shape::List(inner) | Shape::Map(inner) = field.shape {
                    visit(inner);
                }
            }
        }
        Kind::ALL.iter().for_each(|kind| visit(fields(*kind)));
    }
}
