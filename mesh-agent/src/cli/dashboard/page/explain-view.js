// One request asked about, and the answer in the order in which the data path decides.

import { badge, h, replace } from "./dom.js";
import { duration } from "./format.js";
import { ENDPOINT_COLUMNS } from "./parts.js";
import { Table } from "./table.js";

/** A form and its answer. `about`: {from, url, agent}. */
export function explanation(store, about) {
  const answer = h("div", { class: "answer", "aria-live": "polite" });
  const input = (name, label, value, placeholder) => h("label", { class: "field" }, h("span", {}, label), h("input", { name, value: value ?? "", placeholder, autocomplete: "off", spellcheck: "false" }));
  const methods = ["", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const headers = form.get("headers").split("\n").map((line) => line.split(/:(.*)/s)).filter(([name]) => name.trim()).map(([name, value]) => [name.trim(), (value ?? "").trim()]);
    const question = { from: form.get("from").trim(), url: form.get("url").trim(), headers, method: form.get("method") || null, gateway: form.get("gateway").trim() || null };
    try {
      replace(answer, ...steps(await store.ask(about.agent ?? store.agents[0], "explain", question)));
    } catch (error) {
      replace(answer, h("p", { class: "refusal", role: "alert" }, error.message));
    }
  };
  const form = h(
    "form", { class: "explain-form", onsubmit: submit },
    input("from", "From", about.from, "default/web, deploy/web, empty: anybody"),
    h("label", { class: "field" }, h("span", {}, "Method"), h("select", { name: "method" }, ...methods.map((method) => h("option", { value: method }, method || "as usual")))),
    input("url", "To", about.url, "reviews:9080/reviews/1, grpc://…, tcp://…"),
    input("gateway", "At the gateway", about.gateway, "namespace/name, for requests from outside"),
    h("label", { class: "field wide" }, h("span", {}, "Header fields"), h("textarea", { name: "headers", rows: 2, placeholder: "end-user: jason", spellcheck: "false" })),
    h("button", { type: "submit", class: "primary" }, "Explain"),
  );
  return h("div", { class: "explain" }, form, answer);
}

function steps(e) {
  const list = h("ol", { class: "steps" });
  const step = (label, ...content) => list.append(h("li", {}, h("span", { class: "step" }, label), h("div", {}, ...content.flat().filter(Boolean))));
  const { request: r, source, lookup, verdict } = e;
  step("request", h("code", {}, r.protocol === "http" ? `${r.method} ${r.authority}${r.target}` : `${r.protocol} ${r.authority}`), ` to ${r.address}`, r.headers.map(([name, value]) => h("p", {}, h("code", {}, `${name}: ${value}`))));
  step("from", who(source), source.reason ? h("p", { class: "warn" }, source.reason) : null, source.sidecar ? h("p", {}, "sees what ", reference(source.sidecar), " lets it see") : null);
  step("host", host(lookup), lookup.object ? h("p", {}, reference(lookup.object)) : null, lookup.taken_by === "kernel" ? h("p", {}, "opaque: the kernel places the connection, the agent never sees its bytes") : null);
  step(
    "rules",
    e.near_misses.map((miss) => h("p", { class: "miss" }, "✗ ", reference(miss), ": ", miss.why)),
    e.rule ? h("p", { class: "hit" }, "✓ ", e.rule.object ? reference(e.rule) : "no object speaks about this host: straight to it", e.rule.object ? `: ${e.rule.matches}` : "") : h("p", {}, "none takes it"),
    lookup.shadowed.map((each) => h("p", { class: "miss" }, "– ", reference(each), ` does not count: ${each.why}`)),
  );
  if (e.filters.length > 0) step("on its way", e.filters.map(({ kind, text, percent }) => h("p", {}, badge(kind), ` ${text}`, percent < 100 ? `, ${percent} % of the requests` : "")));
  if (e.backends.length > 0 && e.rule) {
    step("timeout", e.timeout_ms === null ? "none" : duration(e.timeout_ms));
    step("retries", e.retry ? `${e.retry.attempts} on ${[...e.retry.on, ...e.retry.statuses].join(", ").replace("proven", "proof that nothing was processed")}` : "none");
  }
  for (const backend of e.backends) step("to", ...to(backend));
  const state = { forwarded: "ok", answered: "ok", refused: "bad" }[verdict.outcome] ?? "plain";
  step("verdict", h("strong", { "data-state": state, "data-verdict": verdict.outcome }, verdict.summary), verdict.body ? h("p", {}, "the client reads: ", h("code", {}, verdict.body)) : null);
  for (const note of e.notes) step("note", note);
  return [list];
}

function who(source) {
  if (source.gateway) return `outside, at Gateway ${source.gateway}${source.workload ? `, served by ${source.workload}` : ""}`;
  if (!source.workload) return `some pod of namespace ${source.namespace}`;
  const where = { enrolled: "in the mesh", elsewhere: "served by another node's agent", outside: "not in the mesh" }[source.mesh] ?? "";
  return `${source.workload} (${source.owner ?? ""})${where ? `, ${where}` : ""}`;
}

function host(lookup) {
  const names = lookup.names.join(" or ");
  const words = {
    service: `Service ${lookup.service} (${lookup.protocol})`,
    pod: lookup.service ? `a pod of headless Service ${lookup.service}` : "a pod's own address",
    routes: `${names}: no Service, only rules know it`,
    gateway: `${names} at the gateway`,
    blocked: "nobody declared it, and only what is declared may be reached (REGISTRY_ONLY)",
    unknown: "nobody declared it: passed on to where the app connects (ALLOW_ANY)",
  };
  return words[lookup.found] ?? "nothing is known of it";
}

function to(backend) {
  const { policy, sent, refusal } = backend;
  const endpoints = new Table({
    caption: `Endpoints of ${backend.to}`,
    key: ({ address }) => address,
    columns: [...ENDPOINT_COLUMNS, { id: "priority", label: "Priority", num: true, cell: ({ priority }) => priority ?? "–", sort: ({ priority }) => priority }],
  });
  endpoints.set(backend.endpoints.map((endpoint) => ({ ...endpoint, addr: endpoint.address === backend.chosen ? `${endpoint.address} ←` : endpoint.address })));
  return [
    h("strong", {}, `${backend.to}${backend.subset ? ` subset ${backend.subset}` : ""}`),
    backend.percent < 100 ? ` ${backend.percent.toFixed(1)} %` : null,
    sent ? h("p", {}, "as ", h("code", {}, `${sent.authority}${sent.target}`), ` ${sent.headers.join(", ")}`) : null,
    policy?.rules.map((rule) => h("p", { class: "hit" }, "✓ ", reference(rule))),
    policy?.shadowed.map((each) => h("p", { class: "miss" }, "– ", reference(each), ` does not count: ${each.why}`)),
    policy ? h("p", {}, `balancer ${policy.balancer}`, policy.hash_key ? ` by ${policy.hash_key}` : "", policy.settings.map((setting) => ` · ${setting}`)) : null,
    backend.endpoints.length > 0 ? endpoints.element : null,
    refusal ? h("p", { "data-state": "bad" }, refusal.summary) : null,
  ].flat();
}

function reference({ object, field, place }) {
  return h("span", { class: "reference" }, h("code", {}, `${object}${field ? ` ${field}` : ""}`), place ? h("small", {}, ` ${place}`) : null);
}
