// All Services, and one of them.

import { badge, empty, facts, h, replace } from "./dom.js";
import { count } from "./format.js";
import { grouped, ofService, workloadOf } from "./model.js";
import { sum } from "./rates.js";
import { codes, ENDPOINT_COLUMNS, IDLE, link, peerTable, Tiles, TRAFFIC_COLUMNS, trafficFacts } from "./parts.js";
import { Table } from "./table.js";

/** Rows of `GET /services` of all agents, each Service once: what is configured is the same everywhere. */
export function unique(rows, name = "name") {
  return [...new Map((rows ?? []).map((row) => [row[name], row])).values()];
}

export class ServicesPage {
  needs = ["services", "graph"];
  title = "Services";
  #store;
  #filter = "";
  #note = h("div");
  #table = new Table({
    caption: "Services",
    quiet: true,
    key: ({ name }) => name,
    columns: [
      { id: "name", label: "Service", cell: ({ name }) => ({ text: name, href: link.service(name) }) },
      { id: "ports", label: "Ports", cell: ({ ports }) => ports.map(({ port, protocol }) => `${port} ${protocol}`).join(", ") },
      { id: "endpoints", label: "Endpoints", num: true, hint: "ready of all", cell: endpoints, sort: ({ ports }) => Math.max(0, ...ports.map(({ ready }) => ready)) },
      ...TRAFFIC_COLUMNS,
    ],
  });
  element;

  constructor(store) {
    this.#store = store;
    const search = h("input", { type: "search", placeholder: "Find a service   /", "aria-label": "Find a service", oninput: ({ target }) => ((this.#filter = target.value.toLowerCase()), this.update()) });
    this.focusSearch = () => search.focus();
    this.element = h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Services"), search), this.#note, this.#table.element);
  }

  update() {
    const services = this.#store.rows("services");
    const rows = unique(services).filter(({ name }) => name.toLowerCase().includes(this.#filter));
    const traffic = new Map(grouped(this.#store.edges, (edge) => edge.service).map(({ key, traffic }) => [key, traffic]));
    this.#table.element.hidden = rows.length === 0;
    this.#table.set(rows.map((row) => ({ ...row, traffic: traffic.get(row.name) ?? IDLE })));
    replace(this.#note, rows.length > 0 ? null : this.#filter ? empty("No service is called so") : services ? empty("No Services are configured", "The agent reads them from the folder it was started with (`mesh-agent run --config DIR`) or from the cluster.") : empty(this.#store.error("services") ?? "Asking the agents…"));
  }
}

function endpoints({ ports }) {
  const least = ports.reduce((worst, port) => (worst && worst.ready <= port.ready ? worst : port), null);
  if (!least) return "–";
  const all = least.ready + least.draining + least.not_ready;
  return { text: `${least.ready} of ${all}`, state: least.ready === 0 ? "bad" : least.ready < all ? "warn" : null };
}

export class ServicePage {
  needs = ["services", "endpoints", "workloads", "graph"];
  #store;
  #name;
  #head = h("div");
  #note = h("div");
  #tiles = new Tiles();
  #codes = h("div");
  #callers = peerTable("Called by", "Workload");
  #backs = peerTable("Answered by", "Workload");
  #ports = new Table({
    caption: "Ports",
    key: ({ port }) => String(port),
    columns: [
      { id: "port", label: "Port", cell: ({ port }) => port, sort: ({ port }) => port },
      { id: "name", label: "Name", cell: ({ name }) => name || "–" },
      { id: "protocol", label: "Protocol", cell: ({ protocol }) => protocol },
      { id: "balanced", label: "Balanced", hint: "who chooses the endpoint", cell: ({ balanced_by }) => (balanced_by === "kernel" ? "per connection, by the kernel" : "per request, by the agent") },
      { id: "policy", label: "Balancer", cell: ({ policy }) => policy },
      { id: "ready", label: "Ready", num: true, cell: ({ ready }) => ({ text: String(ready), state: ready === 0 ? "bad" : null }), sort: ({ ready }) => ready },
      { id: "draining", label: "Draining", num: true, cell: ({ draining }) => draining, sort: ({ draining }) => draining },
      { id: "notready", label: "Not ready", num: true, cell: ({ not_ready }) => not_ready, sort: ({ not_ready }) => not_ready },
    ],
  });
  #endpoints = new Table({
    caption: "Endpoints",
    key: ({ key }) => key,
    columns: [
      ENDPOINT_COLUMNS[0],
      { id: "port", label: "Port", cell: ({ service, subset }) => `${service.split(":").pop()}${subset ? ` / ${subset}` : ""}` },
      ...ENDPOINT_COLUMNS.slice(1),
      { id: "requests", label: "Requests", num: true, cell: ({ requests }) => requests.toLocaleString("en"), sort: ({ requests }) => requests },
      { id: "failures", label: "Failures", num: true, cell: ({ failures }) => ({ text: failures.toLocaleString("en"), state: failures > 0 ? "warn" : null }), sort: ({ failures }) => failures },
      { id: "node", label: "Seen by", cell: ({ agent }) => agent.said.status?.node ?? "–" },
    ],
  });
  element;

  constructor(store, { name }) {
    [this.#store, this.#name, this.title] = [store, name, name];
    this.element = h("div", { class: "page" }, this.#head, this.#note, h("div", { class: "columns" }, this.#tiles.element, this.#codes), this.#ports.element, this.#endpoints.element, this.#callers.element, this.#backs.element);
  }

  update() {
    const service = unique(this.#store.rows("services")).find(({ name }) => name === this.#name);
    const edges = ofService(this.#store.edges, this.#name);
    const traffic = sum(edges.flatMap(({ traffics }) => traffics));
    this.#drawHead(service);
    replace(this.#note, service ? null : this.#store.rows("services") ? empty(`There is no Service ${this.#name}`, "It may have been removed; the Services page lists what there is.") : empty(this.#store.error("services") ?? "Asking the agents…"));
    this.#tiles.update(traffic, this.#store.remember(`service ${this.#name}`, traffic));
    replace(this.#codes, facts(trafficFacts(traffic).slice(2)), codes(traffic));
    const peers = (end) => grouped(edges, (edge) => `${workloadOf(edge[end]) ?? ""}|${edge.protocol}`).map(({ key, traffic }) => {
      const [name, protocol] = key.split("|");
      return { key, name: name || (end === "source" ? "outside the mesh" : "no endpoint"), protocol, traffic, href: name ? link.workload(name) : null };
    });
    this.#ports.set(service?.ports ?? []);
    const rows = (this.#store.rows("endpoints") ?? []).filter((row) => row.service.startsWith(`${this.#name}:`));
    this.#endpoints.set(rows.map((row) => ({ ...row, key: `${row.agent.at} ${row.service} ${row.subset} ${row.addr}` })));
    this.#callers.set(peers("source"));
    this.#backs.set(peers("destination"));
    for (const [table, full] of [[this.#callers, edges.length], [this.#backs, edges.length], [this.#ports, service], [this.#endpoints, rows.length]]) table.element.hidden = !full;
  }

  #drawHead(service) {
    const key = JSON.stringify([service?.host, service?.addresses]);
    if (this.#head.dataset.key === key) return;
    this.#head.dataset.key = key;
    replace(
      this.#head,
      h("p", { class: "crumbs" }, h("a", { href: "#/services" }, "Services"), " / "),
      h("header", { class: "page-head" }, h("h1", {}, this.#name), service?.headless ? badge("headless") : null,
        h("a", { class: "button", href: `#/graph?by=service&select=${encodeURIComponent(this.#name)}` }, "In the graph"),
        h("a", { class: "button", href: link.explain({ url: service ? `${service.host}:${service.ports[0]?.port ?? 80}/` : "" }) }, "Explain a request to it")),
      service ? facts([["host", h("code", {}, service.host)], ["addresses", service.addresses.length > 0 ? h("code", {}, service.addresses.join(", ")) : "none"], ["ports", count(service.ports.length, "port")]]) : null,
    );
  }
}

