//! Text of one file, or one object of an API server → typed resources and diagnostics. Pure.

use super::fields::{Finding, What};
use super::kinds::{Recognised, recognise};
use super::locate::{Document, documents, first_content, line_of};
use super::schema::findings;
use super::{Kind, Meta, Object, ObjectKey, Provenance, Resource};
use crate::config::diagnostic::{Code, Diagnostic};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Parsed {
    pub resources: Vec<Resource>,
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that are named in the file but could not be read.
    pub broken: BTreeSet<ObjectKey>,
    /// Some document could not be read far enough to know what it defines.
    pub unnamed: bool,
}

/// Reads every document of a file; none disturbs its neighbours.
pub fn parse(file: &Arc<Path>, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (n, document) in documents(text).into_iter().enumerate() {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        Reader { file, document, n, parsed: &mut parsed }.document();
    }
    parsed
}

/// Reads one object as an API server gives it, `apiVersion` and `kind` included; it stands in no file.
pub fn object(value: Value) -> Parsed {
    let mut parsed = Parsed::default();
    let nowhere = Document { text: "", first_line: 0 };
    Reader { file: &Provenance::api_server().file, document: nowhere, n: 0, parsed: &mut parsed }.object(value, "");
    parsed
}

/// 1-based line of a field of the object whose first line is `object`; none where it cannot be told.
pub fn field_line(text: &str, object: u32, field: &str) -> Option<u32> {
    let document = documents(text).into_iter().rev().find(|d| d.first_line <= object)?;
    let path = field.split(": ").next().unwrap_or(field);
    // In a List the object is one item of several: fields are looked for from its own line on.
    let first = object - document.first_line;
    let at: usize = document.text.split_inclusive('\n').take(first as usize).map(str::len).sum();
    let line = line_of(document.text.get(at..)?, path)?;
    Some(object + line)
}

struct Reader<'a> {
    file: &'a Arc<Path>,
    document: Document<'a>,
    n: u32,
    parsed: &'a mut Parsed,
}

impl Reader<'_> {
    fn document(&mut self) {
        match well_formed(self.document.text) {
            Ok(Value::Null) => {}
            Ok(value) => self.object(value, ""),
            Err(Malformed { line, message }) => {
                let mut place = self.place("");
                place.line = line.map_or(place.line, |line| self.document.first_line + line);
                let fix = "correct the syntax; other documents of the file are not affected";
                self.parsed.diagnostics.push(Diagnostic::error(Code::Syntax, message).at(&place).fix(fix));
                self.parsed.unnamed = true;
            }
        }
    }

    /// `path` leads to the object in its document: empty, or `items[3]` in a List.
    fn object(&mut self, mut value: Value, path: &str) {
        strip_nulls(&mut value);
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
        let (api_version, kind_name) = (text("apiVersion"), text("kind"));
        if kind_name.is_empty() || api_version.is_empty() {
            let missing = if api_version.is_empty() { "apiVersion" } else { "kind" };
            let message = format!("not a Kubernetes object: it has no {missing}");
            let fix = "add apiVersion and kind, or move the file out of the folder";
            let diagnostic = Diagnostic::warning(Code::NotAnObject, message).at(&self.place(path)).fix(fix);
            self.parsed.diagnostics.push(diagnostic);
            self.parsed.unnamed |= value.get("metadata").is_some();
            return;
        }
        if kind_name.ends_with("List") && value.get("items").is_some() {
            return self.list(value, path);
        }
        let kind = match recognise(api_version, kind_name) {
            Recognised::Read(kind) => kind,
            other => return self.not_read(other, api_version, kind_name, &value, path),
        };
        self.typed(kind, &value, path);
    }

    fn list(&mut self, mut value: Value, path: &str) {
        match value.get_mut("items").map(std::mem::take) {
            Some(Value::Sequence(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.object(item, &format!("{path}{dot}items[{i}]"));
                }
            }
            _ => {
                let diagnostic = Diagnostic::error(Code::BadField, "items is not a list").at(&self.place(path));
                self.parsed.diagnostics.push(diagnostic.field("items").fix("write a list of objects"));
                self.parsed.unnamed = true;
            }
        }
    }

    fn not_read(&mut self, what: Recognised, api_version: &str, kind: &str, value: &Value, path: &str) {
        let name =
            value.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).unwrap_or("without a name");
        let object = format!("{kind} {name} ({api_version})");
        let diagnostic = match what {
            Recognised::Read(_) | Recognised::Harmless => return,
            Recognised::Later(family) => Diagnostic::info(
                Code::NotYetRead,
                format!("{object}: this version does not act on {family} objects yet"),
            )
            .fix("none needed: the object is ignored"),
            Recognised::Never(instead) => {
                Diagnostic::warning(Code::NotSupported, format!("{object}: the object has no effect")).fix(instead)
            }
            Recognised::OtherVersion(kind, version) => {
                Diagnostic::warning(Code::UnknownVersion, format!("{object}: {kind} is read as {version} only"))
                    .field("apiVersion")
                    .fix(format!("write apiVersion: {version}"))
            }
            Recognised::Unknown => {
                let near = Kind::ALL.iter().find(|k| k.to_string().eq_ignore_ascii_case(kind));
                let fix = near.map_or_else(
                    || "check kind and apiVersion for a typing error, or move the object out of the folder".to_owned(),
                    |kind| format!("write kind: {kind} with the apiVersion it has in Kubernetes"),
                );
                Diagnostic::warning(Code::UnknownKind, format!("{object}: unknown kind; the object is ignored"))
                    .field("kind")
                    .fix(fix)
            }
        };
        let place = self.place(path);
        self.parsed.diagnostics.push(diagnostic.at(&place));
    }

    fn typed(&mut self, kind: Kind, value: &Value, path: &str) {
        let place = self.place(path);
        let key = match self.key(kind, value) {
            Ok(key) => key,
            Err(diagnostic) => {
                self.parsed.unnamed = true;
                return self.parsed.diagnostics.push((*diagnostic).at(&place));
            }
        };
        match read(kind, value) {
            Ok((mut meta, object)) => {
                meta.namespace = Arc::clone(&key.namespace);
                for finding in findings(kind, value) {
                    let place = self.field_place(path, &finding.path);
                    self.parsed.diagnostics.push(said(finding).object(&key).at(&place));
                }
                let hash = hash(value);
                self.parsed.resources.push(Resource { key, meta, object, place, hash });
            }
            Err(error) => {
                let field = error.path().to_string();
                let field = if field == "." { String::new() } else { field };
                let message = error.inner().to_string();
                // The library repeats the path before the message.
                let message = message.strip_prefix(&format!("{field}: ")).unwrap_or(&message).to_owned();
                let diagnostic = Diagnostic::error(Code::BadField, format!("{message}; the object is not in force"))
                    .object(&key)
                    .at(&self.field_place(path, &field))
                    .field(field)
                    .fix(advice(&message));
                self.parsed.diagnostics.push(diagnostic);
                self.parsed.broken.insert(key);
            }
        }
    }

    fn key(&self, kind: Kind, value: &Value) -> Result<ObjectKey, Box<Diagnostic>> {
        let meta = |field: &str| value.get("metadata").and_then(|m| m.get(field));
        let name = match meta("name") {
            Some(Value::String(name)) if !name.is_empty() => name.as_str(),
            Some(Value::String(_)) | None => {
                let diagnostic = Diagnostic::error(Code::NoName, format!("{kind} without a name; it is ignored"));
                return Err(Box::new(diagnostic.field("metadata.name").fix("give it a metadata.name")));
            }
            Some(_) => {
                let diagnostic = Diagnostic::error(Code::BadField, format!("{kind}: the name is not text"));
                return Err(Box::new(diagnostic.field("metadata.name").fix("put the name in quotes")));
            }
        };
        let namespace = match meta("namespace") {
            _ if !kind.is_namespaced() => "",
            Some(Value::String(namespace)) if !namespace.is_empty() => namespace.as_str(),
            _ => "default",
        };
        Ok(ObjectKey::new(kind, namespace, name))
    }

    fn place(&self, path: &str) -> Provenance {
        let line = if path.is_empty() { None } else { line_of(self.document.text, path) };
        let line = line.unwrap_or_else(|| first_content(self.document.text));
        Provenance { file: Arc::clone(self.file), line: self.document.first_line + line, document: self.n }
    }

    fn field_place(&self, path: &str, field: &str) -> Provenance {
        let dot = if path.is_empty() || field.is_empty() { "" } else { "." };
        self.place(&format!("{path}{dot}{field}"))
    }
}

fn said(finding: Finding) -> Diagnostic {
    let diagnostic = match finding.what {
        What::Unknown(meant) => {
            let fix = meant.map_or_else(|| "remove it".to_owned(), |meant| format!("did you mean {meant}?"));
            Diagnostic::warning(Code::UnknownField, "unknown field; it has no effect").fix(fix)
        }
        What::NoEffect(why) => {
            let message = format!("the field has no effect here: {why}");
            Diagnostic::warning(Code::NotSupported, message).fix("remove it if it is not needed")
        }
    };
    diagnostic.field(finding.path)
}

#[derive(Debug)]
struct Malformed {
    /// 0-based in the document.
    line: Option<u32>,
    message: String,
}

fn well_formed(text: &str) -> Result<Value, Malformed> {
    // JSON may be indented by tabs, which YAML forbids.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_yaml_ng::from_str(text).map_err(|error| Malformed {
        line: error.location().and_then(|l| u32::try_from(l.line().saturating_sub(1)).ok()),
        message: format!("malformed: {error}"),
    })
}

type Failure = serde_path_to_error::Error<serde_yaml_ng::Error>;

fn read(kind: Kind, value: &Value) -> Result<(Meta, Object), Failure> {
    #[derive(Deserialize)]
    struct WithMeta {
        metadata: Meta,
    }
    let mut meta = from_value::<WithMeta>(value)?.metadata;
    if kind == Kind::Secret {
        // kubectl's `last-applied-configuration` repeats the values.
        meta.annotations.clear();
    }
    let object = match kind {
        Kind::Namespace => Object::Namespace(from_value(value)?),
        Kind::Node => Object::Node(from_value(value)?),
        Kind::Pod => Object::Pod(from_value(value)?),
        Kind::Service => Object::Service(from_value(value)?),
        Kind::Endpoints => Object::Endpoints(from_value(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(from_value(value)?),
        Kind::Deployment | Kind::StatefulSet | Kind::ReplicaSet | Kind::DaemonSet | Kind::Job => {
            Object::Controller(from_value(value)?)
        }
        Kind::VirtualService => Object::VirtualService(from_value(value)?),
        Kind::DestinationRule => Object::DestinationRule(from_value(value)?),
        Kind::ServiceEntry => Object::ServiceEntry(from_value(value)?),
        Kind::WorkloadEntry => Object::WorkloadEntry(from_value(value)?),
        Kind::Sidecar => Object::Sidecar(from_value(value)?),
        Kind::Telemetry => Object::Telemetry(from_value(value)?),
        Kind::IstioGateway => Object::IstioGateway(from_value(value)?),
        Kind::ConfigMap => Object::ConfigMap(from_value(value)?),
        Kind::RequestPolicy => Object::RequestPolicy(from_value(value)?),
        Kind::GatewayClass => Object::GatewayClass(from_value(value)?),
        Kind::Gateway => Object::Gateway(from_value(value)?),
        Kind::HttpRoute => Object::HttpRoute(from_value(value)?),
        Kind::GrpcRoute => Object::GrpcRoute(from_value(value)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(from_value(value)?),
        Kind::Secret => Object::Secret(from_value(value)?),
    };
    Ok((meta, object))
}

fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value)
}

/// Kubernetes takes `field: null` (and `field:`) for an absent field.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Mapping(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Sequence(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Key order does not count: `Value`'s hash of a mapping is order-independent.
fn hash(value: &Value) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

fn advice(message: &str) -> String {
    let fix = if message.contains("expected a string") && message.contains("invalid type") {
        "put the value in quotes"
    } else if message.contains("expected a sequence") {
        "write a list (lines that begin with \"- \")"
    } else if message.contains("expected u16") || message.contains("expected i64") || message.contains("port number") {
        "write a number from 1 to 65535, without quotes"
    } else if message.contains("expected a map") || message.contains("expected struct") {
        "write fields (name: value) below it"
    } else if message.contains("expected a boolean") {
        "write true or false"
    } else if message.contains("missing field") {
        "add the field"
    } else {
        "correct the value"
    };
    fix.to_owned()
}

#[cfg(test)]
mod tests;
