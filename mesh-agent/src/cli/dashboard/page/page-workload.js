// One workload, one of its pods in view: what it calls and how, as the agent of its node has it.

import { Certificates } from "./certificates.js";
import { attribute, badge, empty, facts, h, replace } from "./dom.js";
import { age, bytes } from "./format.js";
import { grouped, ofWorkload, workloadOf } from "./model.js";
import { explanation } from "./explain-view.js";
import { Live } from "./live.js";
import { codes, ENDPOINT_COLUMNS, link, peerTable, Tiles, trafficFacts } from "./parts.js";
import { standing, workloads } from "./page-workloads.js";
import { sum } from "./rates.js";
import { Table } from "./table.js";

const TABS = [["traffic", "Traffic"], ["live", "Live"], ["routes", "Routes"], ["endpoints", "Endpoints"], ["services", "Services"], ["certificates", "Certificates"], ["connections", "Connections"], ["explain", "Explain"]];
/** Between two questions for what is configured, milliseconds. */
const SEEN_EVERY = 5000;

export class WorkloadPage {
  needs = ["workloads", "graph", "connections"];
  #store;
  #name;
  #tab;
  #pod = null;
  #head = h("div");
  #note = h("div");
  #tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "About this workload" });
  #body = h("div", { role: "tabpanel", tabindex: 0 });
  #tiles = new Tiles();
  #codes = h("div");
  #summary = h("div", { class: "columns" }, this.#tiles.element, this.#codes);
  #inbound = peerTable("Called by", "Workload");
  #outbound = peerTable("Calls", "Service");
  #routes = table("Routes that may take its requests", [
    ["host", "Host"], ["port", "Port", true], ["matches", "Match"], ["to", "To"], ["object", "Object"], ["place", "Place"],
  ]);
  #services = table("Services it may call", [
    ["service", "Service"], ["port", "Port", true], ["protocol", "Protocol"], ["addresses", "Addresses"], ["rules", "DestinationRules"], ["subsets", "Subsets"],
  ]);
  #endpoints = new Table({
    caption: "Endpoints it may call",
    key: ({ key }) => key,
    columns: [{ id: "service", label: "Service", cell: ({ service }) => service }, ...ENDPOINT_COLUMNS],
  });
  #certificates = new Certificates();
  #connections = new Table({
    caption: "Open connections, the oldest first",
    key: ({ key }) => key,
    sort: ["age", -1],
    columns: [
      { id: "destination", label: "To", cell: ({ destination }) => destination },
      { id: "client", label: "From", cell: ({ client }) => client },
      { id: "protocol", label: "Protocol", cell: ({ protocol }) => protocol },
      { id: "age", label: "Age", num: true, cell: ({ age_seconds }) => age(age_seconds), sort: ({ age_seconds }) => age_seconds },
      { id: "requests", label: "Requests", num: true, cell: ({ requests }) => requests.toLocaleString("en"), sort: ({ requests }) => requests },
      { id: "streams", label: "Under way", num: true, cell: ({ streams }) => streams, sort: ({ streams }) => streams },
      { id: "received", label: "Sent", num: true, hint: "by the app", cell: ({ received_bytes }) => bytes(received_bytes), sort: ({ received_bytes }) => received_bytes },
      { id: "sent", label: "Received", num: true, hint: "by the app", cell: ({ sent_bytes }) => bytes(sent_bytes), sort: ({ sent_bytes }) => sent_bytes },
    ],
  });
  #explain = null;
  #live;
  #seenAt = -1e9;
  #seenKey = "";
  element;

  constructor(store, { name, query }) {
    [this.#store, this.#name, this.title] = [store, name, name];
    this.#tab = TABS.some(([id]) => id === query.get("tab")) ? query.get("tab") : "traffic";
    this.#live = new Live(store, name);
    this.#drawTabs();
    this.element = h("div", { class: "page" }, this.#head, this.#note, this.#tabs, this.#body);
  }

  close() {
    this.#live.stop();
  }

  update() {
    const rows = this.#store.rows("workloads");
    const workload = workloads(rows).find(({ name }) => name === this.#name);
    const edges = ofWorkload(this.#store.edges, this.#name);
    const known = workload || edges.inbound.length + edges.outbound.length > 0;
    this.#tabs.hidden = this.#body.hidden = !known;
    replace(this.#note, known ? null : rows ? empty(`There is no workload ${this.#name}`, "It may have been removed; the Workloads page lists what there is.") : empty(this.#store.error("workloads") ?? "Asking the agents…"));
    if (!known) return;
    const pods = workload?.pods ?? [];
    if (!pods.some(({ name }) => name === this.#pod)) this.#pod = (pods.find(({ mesh }) => mesh === "enrolled") ?? pods[0])?.name ?? null;
    this.#drawHead(workload, pods);
    this.#draw(edges);
  }

  /** The agent of the pod's node, else any: what is configured is the same everywhere. */
  #agent() {
    const row = (this.#store.rows("workloads") ?? []).find(({ name, mesh }) => name === this.#pod && mesh === "enrolled");
    return row?.agent ?? this.#store.agents[0];
  }

  #drawHead(workload, pods) {
    const key = JSON.stringify([pods.map(({ agent, ...pod }) => pod), this.#pod]);
    if (this.#head.dataset.key === key) return;
    this.#head.dataset.key = key;
    const pod = pods.find(({ name }) => name === this.#pod);
    const state = pods.length > 0 ? standing(pods) : null;
    const choose = h("select", { "data-key": "pod", "aria-label": "Pod", onchange: ({ target }) => this.#choose(target.value) }, ...pods.map(({ name }) => h("option", { value: name, selected: name === this.#pod }, name.split("/")[1])));
    replace(
      this.#head,
      h("p", { class: "crumbs" }, h("a", { href: "#/workloads" }, "Workloads"), " / "),
      h("header", { class: "page-head" }, h("h1", {}, this.#name), workload ? badge(workload.kind) : null, state ? badge(state.text, state.state) : null,
        h("a", { class: "button", href: `#/graph?by=workload&select=${encodeURIComponent(this.#name)}` }, "In the graph")),
      state?.title ? h("p", { class: "why" }, `Outside the mesh: ${state.title}`) : null,
      pod ? facts([["pod", pods.length > 1 ? h("span", {}, choose, ` of ${pods.length}`) : h("code", {}, pod.name.split("/")[1])], ["addresses", h("code", {}, pod.addresses.join(", "))], ["node", pod.node], ["service account", h("code", {}, pod.service_account || "default")]]) : null,
    );
  }

  #choose(pod) {
    this.#pod = pod;
    this.#seenAt = -1e9;
    this.#explain = null;
    this.update();
  }

  #drawTabs() {
    const open = (id) => () => {
      if (id !== "live") this.#live.stop();
      this.#tab = id;
      this.#seenAt = -1e9;
      this.#drawTabs();
      this.update();
    };
    const walk = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const at = TABS.findIndex(([id]) => id === this.#tab);
      open(TABS[(at + step + TABS.length) % TABS.length][0])();
      this.#tabs.querySelector("[aria-selected=true]").focus();
    };
    replace(this.#tabs, ...TABS.map(([id, word]) => h("button", { type: "button", role: "tab", "data-key": id, "aria-selected": String(id === this.#tab), tabindex: id === this.#tab ? 0 : -1, onclick: open(id), onkeydown: walk }, word)));
    attribute(this.#body, "aria-label", TABS.find(([id]) => id === this.#tab)[1]);
    delete this.#body.dataset.tab;
  }

  #draw(edges) {
    const draw = { traffic: () => this.#traffic(edges), live: () => this.#watch(), connections: () => this.#open(), explain: () => this.#ask() }[this.#tab] ?? (() => this.#seen());
    draw();
  }

  /** Puts a tab's elements in place once; what updates later updates them. */
  #show(...elements) {
    if (this.#body.dataset.tab === this.#tab) return;
    this.#body.dataset.tab = this.#tab;
    replace(this.#body, ...elements);
  }

  #traffic({ inbound, outbound }) {
    const all = inbound.length > 0 ? inbound : outbound;
    const traffic = sum(all.flatMap(({ traffics }) => traffics));
    this.#show(this.#summary, this.#inbound.element, this.#outbound.element);
    this.#tiles.update(traffic, this.#store.remember(`workload ${this.#name}`, traffic));
    replace(this.#codes, all.length > 0 ? facts(trafficFacts(traffic).slice(2)) : empty("No traffic yet"), codes(traffic));
    const rows = (edges, by, href) => grouped(edges, (edge) => `${by(edge)}|${edge.protocol}`).map(({ key, traffic }) => {
      const [name, protocol] = key.split("|");
      return { key, name, protocol, traffic, href: href(name) };
    });
    this.#inbound.set(rows(inbound, ({ source }) => workloadOf(source) ?? "outside the mesh", (name) => (name.includes("/") ? link.workload(name) : null)));
    this.#outbound.set(rows(outbound, ({ service }) => service, (name) => (name.includes("/") ? link.service(name) : null)));
    this.#inbound.element.hidden = inbound.length === 0;
    this.#outbound.element.hidden = outbound.length === 0;
  }

  #open() {
    const rows = this.#store.agents.flatMap((agent) => (agent.said.connections?.connections ?? []).filter(({ source }) => source === this.#pod).map((row) => ({ ...row, key: `${agent.at} ${row.id}` })));
    this.#connections.set(rows);
    this.#body.dataset.tab = rows.length > 0 ? this.#body.dataset.tab : "";
    if (rows.length > 0) this.#show(this.#connections.element);
    else replace(this.#body, empty("No open connections", "What the pod keeps open to others through the agent is listed here; connections the kernel placed pass the agent by."));
  }

  /** Routes, endpoints, Services, certificates: asked for the pod in view, now and then. */
  async #seen() {
    const [what, pod] = [this.#tab, this.#pod];
    const key = `${what} ${pod}`;
    if (!pod) return replace(this.#body, empty("No pod of it is known", "Only its traffic was seen."));
    if (this.#seenKey === key && performance.now() - this.#seenAt < SEEN_EVERY) return;
    [this.#seenKey, this.#seenAt] = [key, performance.now()];
    const shown = { routes: this.#routes, endpoints: this.#endpoints, services: this.#services, certificates: this.#certificates }[what];
    try {
      const rows = await this.#store.ask(this.#agent(), "seen", { from: pod, what });
      if (this.#seenKey !== key || this.#tab !== what) return;
      if (rows.length === 0) return replace(this.#body, empty(`It sees no ${what}`, "A Sidecar object or `exportTo` may hide them from its namespace."));
      shown.set(rows.map((row, at) => ({ ...row, key: `${at} ${row.service ?? row.host}` })));
      this.#show(shown.element);
    } catch (error) {
      delete this.#body.dataset.tab;
      replace(this.#body, empty("The agent does not say", error.message));
    }
  }

  #watch() {
    this.#show(this.#live.element);
    this.#live.start();
  }

  #ask() {
    this.#explain ??= explanation(this.#store, { from: this.#pod ?? "", agent: this.#agent() });
    this.#show(this.#explain);
  }
}

/** A table of plain values. */
function table(caption, columns) {
  const words = (value) => {
    if (Array.isArray(value)) return value.map((each) => each?.object ?? each).join(", ") || "–";
    return value === "" || value === null || value === undefined ? "–" : value;
  };
  return new Table({ caption, key: ({ key }) => key, columns: columns.map(([id, label, num]) => ({ id, label, num, cell: (row) => words(row[id]), sort: num ? (row) => row[id] : undefined })) });
}

