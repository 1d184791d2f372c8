// All workloads: what owns pods, with their traffic and whether they are in the mesh.

import { empty, h, replace } from "./dom.js";
import { grouped, workloadOf } from "./model.js";
import { IDLE, link, TRAFFIC_COLUMNS } from "./parts.js";
import { unique } from "./page-services.js";
import { Table } from "./table.js";

/** Pods gathered by what owns them: [{name: "namespace/owner", kind, pods: [rows]}]. A pod without owner owns itself. */
export function workloads(rows) {
  const found = new Map();
  // Several agents know a pod; its own knows best whether it is in the mesh.
  const best = (row) => ["enrolled", "outside", "elsewhere"].indexOf(row.mesh);
  for (const row of unique([...(rows ?? [])].sort((a, b) => best(b) - best(a)))) {
    const [namespace, pod] = row.name.split("/");
    const [kind, owner] = row.owner?.includes("/") ? row.owner.split("/") : ["Pod", row.owner || pod];
    const name = `${namespace}/${owner}`;
    if (!found.has(name)) found.set(name, { name, kind, pods: [] });
    found.get(name).pods.push(row);
  }
  return [...found.values()];
}

/** How many of the pods are in the mesh, in words. */
export function standing(pods) {
  const outside = pods.filter(({ mesh }) => mesh === "outside");
  if (outside.length === 0) return { text: pods.every(({ mesh }) => mesh === "elsewhere") ? "by another node" : "in the mesh", state: "ok" };
  const reasons = [...new Set(outside.map(({ reason }) => reason))].join("; ");
  return { text: outside.length === pods.length ? "outside" : `${outside.length} outside`, state: "warn", title: reasons };
}

export class WorkloadsPage {
  needs = ["workloads", "graph"];
  title = "Workloads";
  #store;
  #filter = "";
  #note = h("div");
  #table = new Table({
    caption: "Workloads",
    quiet: true,
    key: ({ name }) => name,
    columns: [
      { id: "name", label: "Workload", cell: ({ name }) => ({ text: name, href: link.workload(name) }) },
      { id: "kind", label: "Kind", cell: ({ kind }) => kind },
      { id: "pods", label: "Pods", num: true, cell: ({ pods }) => pods.length, sort: ({ pods }) => pods.length },
      { id: "mesh", label: "Mesh", cell: ({ pods }) => standing(pods) },
      ...TRAFFIC_COLUMNS.slice(0, 2),
      TRAFFIC_COLUMNS[3],
      { id: "out", label: "Sends", num: true, hint: "requests to others", cell: ({ out }) => TRAFFIC_COLUMNS[0].cell({ traffic: out }), sort: ({ out }) => out.rate },
    ],
  });
  element;

  constructor(store) {
    this.#store = store;
    const search = h("input", { type: "search", placeholder: "Find a workload or pod   /", "aria-label": "Find a workload or pod", oninput: ({ target }) => ((this.#filter = target.value.toLowerCase()), this.update()) });
    this.focusSearch = () => search.focus();
    this.element = h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Workloads"), search), this.#note, this.#table.element);
  }

  update() {
    const rows = this.#store.rows("workloads");
    const found = workloads(rows).filter(({ name, pods }) => [name, ...pods.map((pod) => pod.name)].some((text) => text.toLowerCase().includes(this.#filter)));
    const by = (end) => new Map(grouped(this.#store.edges, (edge) => workloadOf(edge[end])).map(({ key, traffic }) => [key, traffic]));
    const [inbound, outbound] = [by("destination"), by("source")];
    this.#table.element.hidden = found.length === 0;
    this.#table.set(found.map((row) => ({ ...row, traffic: inbound.get(row.name) ?? IDLE, out: outbound.get(row.name) ?? IDLE })));
    replace(this.#note, found.length > 0 ? null : this.#filter ? empty("No workload or pod is called so") : rows ? empty("No pods are known", "The agent reads them from the folder it was started with (`mesh-agent run --config DIR`) or from the cluster.") : empty(this.#store.error("workloads") ?? "Asking the agents…"));
  }
}

