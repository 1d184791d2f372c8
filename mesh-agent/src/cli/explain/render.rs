//! An `Explanation` for people: from the request down to the endpoints, then what comes of it.

use crate::cli::output::{Paint, Style};
use crate::cli::table::{Cell, Table};
use crate::explain::view::{
    Backend, Endpoint, Explanation, Lookup, Outcome, Policy, Reference, Retry, Source, Verdict,
};
use std::fmt::Write as _;

/// Endpoints shown of each destination; `-o json` has all.
const MOST_ENDPOINTS: usize = 12;

pub(super) fn text(e: &Explanation, paint: Paint) -> String {
    let mut page = Page { out: String::new(), paint };
    page.request(e);
    page.source(&e.source);
    page.lookup(e);
    page.rules(e);
    for (at, filter) in e.filters.iter().enumerate() {
        let share =
            if filter.percent < 100.0 { format!(", {} % of the requests", filter.percent) } else { String::new() };
        let label = if at == 0 { "on its way" } else { "" };
        page.line(label, &format!("{}: {}{share}", filter.kind, filter.text), Style::Plain);
    }
    if !e.backends.is_empty() && e.rule.is_some() && !e.lookup.opaque {
        let timeout = e.timeout_ms.map_or_else(|| "none".into(), duration);
        page.line("timeout", &timeout, Style::Plain);
        page.line("retries", &e.retry.as_ref().map_or_else(|| "none".into(), retries), Style::Plain);
    }
    e.backends.iter().for_each(|backend| page.backend(backend));
    page.verdict(&e.verdict);
    e.notes.iter().for_each(|note| page.line("note", note, Style::Dim));
    page.out
}

struct Page {
    out: String,
    paint: Paint,
}

impl Page {
    fn line(&mut self, label: &str, text: &str, style: Style) {
        let (label, text) = (self.paint.text(&format!("{label:<10}"), Style::Bold), self.paint.text(text, style));
        // Writing to a String does not fail.
        let _ = writeln!(self.out, "{label} {text}");
    }

    /// Under a line, in the column of its text.
    fn under(&mut self, text: &str, style: Style) {
        let _ = writeln!(self.out, "{:11}{}", "", self.paint.text(text, style));
    }

    fn request(&mut self, e: &Explanation) {
        let r = &e.request;
        let what = match r.protocol.as_str() {
            "http" => format!("{} {}{} to {}", r.method, r.authority, r.target, r.address),
            other => {
                let sni = r.sni.as_deref().filter(|sni| *sni != r.authority.split(':').next().unwrap_or_default());
                let sni = sni.map(|sni| format!(" with SNI {sni}")).unwrap_or_default();
                format!("{other} connection for {}{sni} to {}", r.authority, r.address)
            }
        };
        self.line("request", &what, Style::Plain);
        for (name, value) in &r.headers {
            self.under(&format!("{name}: {value}"), Style::Plain);
        }
    }

    fn source(&mut self, source: &Source) {
        let who = match (&source.workload, &source.gateway) {
            (_, Some(gateway)) => format!("outside, at Gateway {gateway}"),
            (Some(workload), None) => {
                format!("{workload} ({})", source.owner.as_deref().unwrap_or_default())
            }
            (None, None) => format!("some pod of namespace {} (name one with --from)", source.namespace),
        };
        let pod = source.workload.as_deref().filter(|_| source.gateway.is_some());
        let who = pod.map_or_else(|| who.clone(), |pod| format!("{who}, served by {pod}"));
        match source.mesh.as_str() {
            "outside" => {
                self.line("from", &who, Style::Plain);
                let text = format!("not in the mesh: {}; what follows would hold if it were", source.reason);
                self.under(&text, Style::Warn);
            }
            "elsewhere" => self.line("from", &format!("{who}, served by another node's agent"), Style::Plain),
            "enrolled" => self.line("from", &format!("{who}, in the mesh"), Style::Plain),
            _ => self.line("from", &who, Style::Plain),
        }
        if let Some(sidecar) = &source.sidecar {
            self.under(&format!("sees what {} lets it see", named(sidecar)), Style::Plain);
        }
    }

    fn lookup(&mut self, e: &Explanation) {
        let l: &Lookup = &e.lookup;
        let service = || {
            let object = l.object.as_ref().map(|object| format!("  {}", named(object))).unwrap_or_default();
            let protocol = l.protocol.as_deref().unwrap_or_default();
            format!("{} ({protocol}){object}", l.service.as_deref().unwrap_or_default())
        };
        let names = l.names.join(" or ");
        let (text, style) = match l.found.as_str() {
            "service" => (format!("Service {}", service()), Style::Plain),
            "pod" if l.service.is_some() => (format!("a pod of headless Service {}", service()), Style::Plain),
            "pod" => ("a pod's own address".into(), Style::Plain),
            "routes" => (format!("{names}: no Service, only rules know it"), Style::Plain),
            "gateway" => (format!("{names} at the gateway"), Style::Plain),
            "blocked" => {
                ("nobody declared it, and only what is declared may be reached (REGISTRY_ONLY)".into(), Style::Bad)
            }
            "unknown" => ("nobody declared it: passed on to where the app connects (ALLOW_ANY)".into(), Style::Warn),
            _ => ("nothing is known of it".into(), Style::Bad),
        };
        self.line("host", &text, style);
        if l.taken_by == "nobody" {
            self.under("left alone: the kernel lets it pass as if there were no mesh", Style::Plain);
        }
        if l.taken_by == "kernel" {
            self.under(
                "opaque: the kernel places the connection by weight, the agent never sees its bytes",
                Style::Plain,
            );
        }
    }

    fn rules(&mut self, e: &Explanation) {
        let mut label = "rules";
        let mut heading = |page: &mut Self, mark: &str, text: &str, style| {
            page.line(label, &format!("{mark} {text}"), style);
            label = "";
        };
        for miss in &e.near_misses {
            heading(self, "✗", &format!("{}: {}", named(&miss.reference), miss.why), Style::Dim);
        }
        if let Some(rule) = &e.rule {
            let text = if rule.reference.object.is_empty() {
                "no object speaks about this host: straight to it".to_owned()
            } else {
                format!("{}: {}", named(&rule.reference), rule.matches)
            };
            heading(self, "✓", &text, Style::Good);
        }
        for shadowed in &e.lookup.shadowed {
            heading(self, "–", &format!("{} does not count: {}", named(&shadowed.reference), shadowed.why), Style::Dim);
        }
    }

    fn backend(&mut self, b: &Backend) {
        let subset = b.subset.as_ref().map(|subset| format!(" subset {subset}")).unwrap_or_default();
        let share = if b.percent < 100.0 { format!("  {:.1} %", b.percent) } else { String::new() };
        self.line("to", &format!("{}{subset}{share}", b.to), Style::Bold);
        if let Some(sent) = &b.sent {
            self.under(&format!("as {}{}", sent.authority, sent.target), Style::Plain);
            sent.headers.iter().for_each(|header| self.under(header, Style::Plain));
        }
        if let Some(policy) = &b.policy {
            self.policy(policy);
        }
        if !b.endpoints.is_empty() {
            self.endpoints(b);
        }
        if let Some(refusal) = &b.refusal {
            self.under(&refusal.summary, Style::Bad);
        }
    }

    fn policy(&mut self, p: &Policy) {
        for rule in &p.rules {
            self.under(&format!("✓ {}", named(rule)), Style::Good);
        }
        for shadowed in &p.shadowed {
            self.under(&format!("– {} does not count: {}", named(&shadowed.reference), shadowed.why), Style::Dim);
        }
        let hash = match (&p.hash_key, p.hash) {
            (Some(key), Some(hash)) => format!(" by {key} (hash {hash:016x})"),
            (Some(key), None) => format!(" by {key}, which this request has not: any endpoint"),
            (None, _) => String::new(),
        };
        self.under(&format!("balancer {}{hash}", p.balancer), Style::Plain);
        p.settings.iter().for_each(|setting| self.under(setting, Style::Plain));
    }

    fn endpoints(&mut self, b: &Backend) {
        let mut table =
            Table::new(&["ENDPOINT", "WORKLOAD", "LOCALITY", "WEIGHT", "HEALTH", "PRIORITY", "ACTIVE", "LATENCY"]);
        for endpoint in b.endpoints.iter().take(MOST_ENDPOINTS) {
            let mark = if b.chosen == Some(endpoint.address) { " ←" } else { "" };
            table.row(vec![
                format!("{}{mark}", endpoint.address).into(),
                endpoint.workload.as_deref().unwrap_or("-").into(),
                if endpoint.locality.is_empty() { "-" } else { endpoint.locality.as_str() }.into(),
                Cell::number(&endpoint.weight),
                health(endpoint),
                Cell::number(&endpoint.priority.map_or_else(|| "-".into(), |priority| priority.to_string())),
                Cell::number(&endpoint.active),
                Cell::number(&endpoint.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"))),
            ]);
        }
        for line in table.render(self.paint).lines() {
            let _ = writeln!(self.out, "{:11}{}", "", line.trim_end());
        }
        let more = b.endpoints.len().saturating_sub(MOST_ENDPOINTS);
        if more > 0 {
            self.under(&format!("and {more} more (-o json)"), Style::Dim);
        }
    }

    fn verdict(&mut self, v: &Verdict) {
        let style = match v.outcome {
            Outcome::Forwarded | Outcome::Answered => Style::Good,
            Outcome::Refused => Style::Bad,
        };
        self.line("verdict", &v.summary, style);
        if let Some(body) = &v.body {
            self.under(&format!("the client reads: {body}"), Style::Plain);
        }
    }
}

pub(in crate::cli) fn health(endpoint: &Endpoint) -> Cell {
    match (endpoint.ejected, endpoint.avoided, endpoint.health.as_str()) {
        (true, ..) => Cell::styled(format!("ejected {:.1} s", endpoint.ejected_ms as f64 / 1000.0), Style::Bad),
        (_, true, _) => Cell::styled("avoided", Style::Bad),
        (_, _, "ready") => Cell::styled("ready", Style::Good),
        (_, _, other) => Cell::styled(other, Style::Warn),
    }
}

fn retries(retry: &Retry) -> String {
    let mut on = retry.on.clone();
    on.extend(retry.statuses.iter().map(ToString::to_string));
    let on = if on == ["proven"] { "proof that the endpoint did not process the request".into() } else { on.join(",") };
    let per_try = retry.per_try_timeout_ms.map(|ms| format!(", each at most {}", duration(ms))).unwrap_or_default();
    format!("{} on {on}{per_try}", retry.attempts)
}

fn duration(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}

/// `VirtualService default/reviews spec.http[0] (routes.yaml:12)`
fn named(r: &Reference) -> String {
    let field = if r.field.is_empty() { String::new() } else { format!(" {}", r.field) };
    let place = if r.place.is_empty() { String::new() } else { format!(" ({})", r.place) };
    format!("{}{field}{place}", r.object)
}
