// Who calls whom, live.

import { attribute, command, empty, facts, h, replace, text } from "./dom.js";
import { count, duration, health, percent, rate } from "./format.js";
import { GraphView } from "./graph-view.js";
import { filtered, graph } from "./model.js";
import { sum } from "./rates.js";
import { codes, link, peerTable, Tiles, trafficFacts, volume } from "./parts.js";

/** Kept while other pages are in view. */
const view = { by: "service", label: "rate", text: "", hidden: new Set(), failing: false, busy: false, list: false, selected: null };

export class GraphPage {
  needs = ["graph"];
  title = "Graph";
  #store;
  #view;
  #model = { nodes: [], edges: [] };
  #shown = this.#model;
  #panel = h("aside", { class: "panel", "aria-label": "Details", "aria-live": "off" });
  #namespaces = h("div", { class: "menu-items" });
  #search;
  #list = peerTable("Calls", "From → to");
  #stage;
  #note = h("div", { class: "stage-note" });
  #tiles = new Tiles();
  #drawnFor = null;
  #counter = h("span", { class: "counter", role: "status" });
  element;

  constructor(store, { query }) {
    this.#store = store;
    if (query.get("select")) view.selected = query.get("select");
    if (query.get("by")) view.by = query.get("by");
    this.#view = new GraphView((id) => this.#select(id));
    this.#view.label = view.label;
    this.#view.selected = view.selected;
    this.#search = h("input", { type: "search", placeholder: "Find a service   /", "aria-label": "Find a service or namespace", value: view.text, oninput: () => this.#set({ text: this.#search.value }) });
    this.#stage = h("div", { class: "stage" }, this.#view.element, this.#list.element, this.#note, this.#zoom(), legend());
    this.element = h("div", { class: "graph-page" }, this.#toolbar(), this.#stage, this.#panel);
  }

  close() {
    this.#view.close();
  }

  focusSearch() {
    this.#search.focus();
  }

  escape() {
    if (view.selected) this.#view.select(null);
  }

  #set(change) {
    Object.assign(view, change);
    this.#view.label = view.label;
    this.update();
  }

  #toolbar() {
    const check = (name, label, hint) => h("label", { class: "check", title: hint }, h("input", { type: "checkbox", checked: view[name], onchange: ({ target }) => this.#set({ [name]: target.checked }) }), label);
    const choice = (name, label, options) =>
      h("label", { class: "field" }, h("span", {}, label), h("select", { onchange: ({ target }) => this.#set({ [name]: target.value }) }, ...options.map(([value, word]) => h("option", { value, selected: view[name] === value }, word))));
    return h(
      "div", { class: "toolbar", role: "search" },
      this.#search,
      h("details", { class: "menu" }, h("summary", {}, "Namespaces"), this.#namespaces),
      choice("by", "Show", [["service", "services"], ["workload", "workloads"]]),
      choice("label", "Label", [["rate", "requests"], ["success", "success"], ["p95", "p95 latency"], ["none", "nothing"]]),
      check("failing", "failing", "only calls with less than 99.9 % success"),
      check("busy", "with traffic", "hide calls that nobody makes now"),
      check("list", "as a list", "the same calls as a table"),
      this.#counter,
    );
  }

  #zoom() {
    const button = (label, words, act) => h("button", { type: "button", "aria-label": words, title: words, onclick: act }, label);
    return h("div", { class: "zoom" }, button("+", "zoom in", () => this.#view.zoom(1.3)), button("−", "zoom out", () => this.#view.zoom(1 / 1.3)), button("□", "show all (0)", () => this.#view.fit()));
  }

  update() {
    const store = this.#store;
    this.#model = graph(store.edges, view.by);
    const groups = [...new Set(this.#model.nodes.map((node) => node.group))].sort();
    this.#menu(groups);
    const namespaces = view.hidden.size > 0 ? new Set(groups.filter((group) => !view.hidden.has(group))) : null;
    this.#shown = filtered(this.#model, { namespaces, text: view.text, failing: view.failing, busy: view.busy });
    const none = this.#shown.nodes.length === 0;
    attribute(this.#view.element, "hidden", view.list || none ? "" : null);
    this.#list.element.hidden = !view.list || none;
    this.#note.hidden = !none;
    if (none) this.#why();
    else if (view.list) this.#list.set(this.#shown.edges.map(row));
    else this.#view.update(this.#shown);
    text(this.#counter, none ? "" : `${count(this.#shown.nodes.length, view.by)}, ${count(this.#shown.edges.length, "call")}`);
    this.#details();
  }

  /** The reason why nothing is drawn, and what to do. */
  #why() {
    const store = this.#store;
    const kind = this.#model.nodes.length > 0 ? "filtered" : store.error("graph") ? "error" : store.agents.some((agent) => agent.said.graph) ? "empty" : "loading";
    if (this.#note.dataset.kind === kind && kind !== "error") return;
    this.#note.dataset.kind = kind;
    const clear = () => {
      this.#search.value = "";
      for (const input of this.element.querySelectorAll(".toolbar input[type=checkbox]")) input.checked = input.name !== "";
      this.#set({ text: "", hidden: new Set(), failing: false, busy: false });
    };
    const boxes = {
      loading: () => empty("Asking the agents…"),
      error: () => empty("No agent tells who calls whom", store.error("graph"), "Is the agent of this console's version? Compare `mesh-agent version` with the Nodes page."),
      empty: () =>
        empty(
          "No calls yet",
          "Calls appear here a second after a pod of the mesh makes them. A namespace joins with a label; nothing restarts, and new connections of its pods are the mesh's:",
          command("kubectl label namespace default istio-injection=enabled"),
          "The Nodes page says which pods are in the mesh, which are not, and why. No cluster at hand? This makes one of network namespaces, with traffic:",
          command("cargo xtask run"),
        ),
      filtered: () => empty("Nothing fits the filter", `${count(this.#model.edges.length, "call")} hidden.`, h("button", { type: "button", onclick: clear }, "Show all")),
    };
    replace(this.#note, boxes[kind]());
  }

  #menu(groups) {
    const key = groups.join("|");
    if (this.#namespaces.dataset.key === key) return;
    this.#namespaces.dataset.key = key;
    const toggle = (group, on) => {
      view.hidden = new Set(view.hidden);
      view.hidden[on ? "delete" : "add"](group);
      this.#set({});
    };
    const boxes = groups.map((group) => h("label", { class: "check" }, h("input", { type: "checkbox", name: "namespace", checked: !view.hidden.has(group), onchange: ({ target }) => toggle(group, target.checked) }), group));
    const all = (on) => () => {
      for (const group of groups) view.hidden[on ? "delete" : "add"](group);
      for (const box of this.#namespaces.querySelectorAll("input")) box.checked = on;
      this.#set({});
    };
    replace(this.#namespaces, h("div", { class: "row" }, h("button", { type: "button", onclick: all(true) }, "all"), h("button", { type: "button", onclick: all(false) }, "none")), ...boxes);
  }

  #select(id) {
    view.selected = id;
    this.#details();
  }

  #details() {
    const node = this.#model.nodes.find(({ id }) => id === view.selected);
    const edge = this.#model.edges.find(({ id }) => id === view.selected);
    const traffic = node ? (node.inbound.total > 0 ? node.inbound : node.outbound) : edge ? edge.traffic : sum(this.#model.edges.flatMap(({ traffics }) => traffics));
    const points = this.#store.remember(`graph ${view.selected ?? "mesh"}`, traffic);
    if (!view.selected) this.#store.remember("graph mesh", traffic);
    this.#tiles.update(traffic, points);
    attribute(this.#panel, "data-about", node ? "node" : edge ? "edge" : "mesh");
    // A link that is being clicked must not be swapped for its twin.
    if (this.#drawnFor === view.selected && this.#panel.matches(":active")) return;
    this.#drawnFor = view.selected;
    replace(this.#panel, ...(node ? this.#aboutNode(node) : edge ? this.#aboutEdge(edge) : this.#aboutMesh()));
  }

  #aboutMesh() {
    const { edges } = this.#model;
    const worst = edges.filter(({ traffic }) => ["bad", "warn"].includes(health(traffic))).sort((a, b) => b.traffic.errors - a.traffic.errors).slice(0, 6);
    const slow = edges.filter(({ traffic }) => traffic.p95 !== null).sort((a, b) => b.traffic.p95 - a.traffic.p95).slice(0, 6);
    const plain = edges.filter(({ traffic }) => traffic.security !== "mutual_tls").length;
    return [
      h("h1", {}, "Mesh"),
      this.#tiles.element,
      worst.length > 0 ? h("h2", {}, "Failing most") : null,
      worst.length > 0 ? this.#calls(worst, ({ traffic }) => [percent(traffic.success), health(traffic)]) : null,
      slow.length > 0 ? h("h2", {}, "Slowest (p95)") : null,
      slow.length > 0 ? this.#calls(slow, ({ traffic }) => [duration(traffic.p95), null]) : null,
      edges.length > 0 ? h("p", { class: "aside" }, plain === 0 ? "All calls are encrypted (mutual TLS)." : `${count(plain, "call")} of ${edges.length} are not encrypted by the mesh.`) : null,
    ];
  }

  #aboutNode(node) {
    const own = this.#model.edges.filter(({ from, to }) => from === node.id || to === node.id);
    const callers = own.filter(({ to, from }) => to === node.id && from !== node.id);
    const called = own.filter(({ from }) => from === node.id);
    const busiest = (edges) => edges.sort((a, b) => (b.traffic.rate ?? 0) - (a.traffic.rate ?? 0)).slice(0, 12);
    const numbers = ({ traffic }) => [traffic.rate > 0 ? `${rate(traffic.rate)}  ${percent(traffic.success)}` : volume(traffic), health(traffic)];
    const traffic = node.inbound.total > 0 ? node.inbound : node.outbound;
    return [
      this.#close(),
      h("p", { class: "kind" }, view.by, " in ", node.group),
      h("h1", {}, node.name),
      this.#tiles.element,
      facts(trafficFacts(traffic).slice(2)),
      codes(traffic),
      links([...node.services].filter((name) => name.includes("/")).map((name) => [link.service(name), name, "Service"])),
      links([...node.workloads].slice(0, 8).map((name) => [link.workload(name), name, "Workload"])),
      callers.length > 0 ? h("h2", {}, "Called by") : null,
      callers.length > 0 ? this.#calls(busiest(callers), numbers, "from") : null,
      called.length > 0 ? h("h2", {}, "Calls") : null,
      called.length > 0 ? this.#calls(busiest(called), numbers, "to") : null,
    ];
  }

  #aboutEdge(edge) {
    const { traffic } = edge;
    return [
      this.#close(),
      h("p", { class: "kind" }, `${edge.protocol} calls`),
      h("h1", {}, edge.from.split("/").pop(), " → ", edge.to.split("/").pop()),
      this.#tiles.element,
      facts([...trafficFacts(traffic).slice(2), ["through", [...edge.services].join(", ")]]),
      codes(traffic),
      h("div", { class: "row" }, ...[edge.from, edge.to].map((id) => h("button", { type: "button", "data-key": id, onclick: () => this.#view.select(id, { reveal: true }) }, id.split("/").pop()))),
    ];
  }

  #close() {
    return h("button", { type: "button", class: "close", "data-key": "close", "aria-label": "Close details (Escape)", onclick: () => this.#view.select(null) }, "×");
  }

  #calls(edges, numbers, end = null) {
    const name = (id) => id.split("/").pop();
    const items = edges.map((edge) => {
      const [words, state] = numbers(edge);
      const label = end ? name(edge[end]) : `${name(edge.from)} → ${name(edge.to)}`;
      return h("li", {}, h("button", { type: "button", "data-key": edge.id, onclick: () => this.#view.select(end ? edge[end] : edge.id, { reveal: true }) }, label), h("span", { class: "num", "data-state": state }, words));
    });
    return h("ul", { class: "calls" }, ...items);
  }
}

function row(edge) {
  return { key: edge.id, name: `${edge.from} → ${edge.to}`, href: `#/graph?select=${encodeURIComponent(edge.id)}`, protocol: edge.protocol, traffic: edge.traffic };
}

function links(all) {
  return all.length > 0 ? h("ul", { class: "links" }, ...all.map(([href, name, what]) => h("li", {}, h("span", {}, what), h("a", { href }, name)))) : null;
}

function legend() {
  const item = (state, words) => h("li", {}, h("i", { class: state }), words);
  return h("ul", { class: "legend", "aria-label": "Legend" }, item("ok", "≥ 99.9 %"), item("warn", "≥ 99 %"), item("bad", "below"), item("idle", "idle"));
}

