//! The part of Helm's templates that our chart uses: values in a line (`{{ .Values.a.b }}`, `| quote`,
//! `| default .Chart.AppVersion`), and lines of `if`, `range`, `end`. Everything else is an error, so that a template
//! which only Helm understands is found by the first test. Pure.

use super::Values;
use serde_yaml_ng::Value;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TemplateError {
    line: usize,
    what: String,
}

/// What the lines within an `if` or `range` are written for.
struct Block<'a> {
    /// Lines of the block, with their numbers.
    lines: Vec<(usize, &'a str)>,
    kind: BlockKind<'a>,
}

enum BlockKind<'a> {
    If(&'a str),
    Range(&'a str),
}

/// # Errors
/// At what is not of the subset, and at values that are not there.
pub(super) fn render(template: &str, values: &Values, namespace: &str) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut block: Option<Block<'_>> = None;
    let world = World { values, namespace };
    for (n, line) in template.lines().enumerate() {
        let at = |what: String| TemplateError { line: n + 1, what };
        let directive = line.trim().strip_prefix("{{-").and_then(|rest| rest.strip_suffix("}}")).map(str::trim);
        match (directive.map(|d| d.split_once(' ').unwrap_or((d, ""))), &mut block) {
            (Some(("if", value)), none @ None) => {
                *none = Some(Block { lines: Vec::new(), kind: BlockKind::If(value) });
            }
            (Some(("range", value)), none @ None) => {
                *none = Some(Block { lines: Vec::new(), kind: BlockKind::Range(value) });
            }
            (Some(("end", "")), some @ Some(_)) => {
                if let Some(done) = some.take() {
                    world.block(&done, &mut out).map_err(|(line, what)| TemplateError { line: line + 1, what })?;
                }
            }
            (Some((word, _)), _) => return Err(at(format!("{{{{- {word} }}}} cannot stand here"))),
            (None, Some(block)) => block.lines.push((n, line)),
            (None, None) => {
                out.push_str(&world.line(line, None).map_err(at)?);
                out.push('\n');
            }
        }
    }
    match block {
        Some(_) => Err(TemplateError { line: template.lines().count(), what: "a block has no end".into() }),
        None => Ok(out),
    }
}

struct World<'a> {
    values: &'a Values,
    namespace: &'a str,
}

impl World<'_> {
    fn block(&self, block: &Block<'_>, out: &mut String) -> Result<(), (usize, String)> {
        let first = block.lines.first().map_or(0, |(n, _)| *n);
        let mut write = |item: Option<&Value>| {
            for (n, line) in &block.lines {
                out.push_str(&self.line(line, item).map_err(|what| (*n, what))?);
                out.push('\n');
            }
            Ok(())
        };
        match block.kind {
            BlockKind::If(path) => {
                if is_true(self.value(path).map_err(|what| (first, what))?) {
                    write(None)?;
                }
            }
            BlockKind::Range(path) => match self.value(path).map_err(|what| (first, what))? {
                Value::Sequence(items) => items.iter().try_for_each(|item| write(Some(item)))?,
                _ => return Err((first, format!("{path} is no list"))),
            },
        }
        Ok(())
    }

    fn line(&self, line: &str, item: Option<&Value>) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (expression, after) = after.split_once("}}").ok_or("{{ without }}")?;
            out.push_str(before);
            out.push_str(&self.expression(expression.trim(), item)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn expression(&self, expression: &str, item: Option<&Value>) -> Result<String, String> {
        let mut parts = expression.split('|').map(str::trim);
        let path = parts.next().unwrap_or_default();
        let mut text = match path {
            "." => scalar(item.ok_or("`.` outside a range")?)?,
            ".Release.Namespace" => self.namespace.to_owned(),
            _ => scalar(self.value(path)?)?,
        };
        for function in parts {
            text = match function {
                // Go's %q and JSON agree on what flags and filters may hold.
                "quote" => Value::String(text).as_str().map(quoted).unwrap_or_default(),
                "default .Chart.AppVersion" if text.is_empty() => env!("CARGO_PKG_VERSION").to_owned(),
                "default .Chart.AppVersion" => text,
                other => return Err(format!("`{other}` is not a function we have")),
            };
        }
        Ok(text)
    }

    fn value(&self, path: &str) -> Result<&Value, String> {
        let inner = path.strip_prefix(".Values.").ok_or_else(|| format!("`{path}` is not something we have"))?;
        self.values.at(inner).ok_or_else(|| format!("there is no value {inner}"))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Go's templates: empty text, 0, false, nothing and empty lists are false.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Sequence(items) => !items.is_empty(),
        Value::Mapping(map) => !map.is_empty(),
        Value::Tagged(_) => true,
    }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(is) => Ok(is.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Null => Ok(String::new()),
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => Err("a list or map cannot stand in a line".into()),
    }
}
