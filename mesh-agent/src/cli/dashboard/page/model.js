// The graph that is drawn: edges of all agents, gathered by service or by workload. Pure.

import { sum } from "./rates.js";

/** Where what is not a workload of the mesh is shown. */
export const OUTSIDE = "outside";

/** Edges of all agents, those of one key summed. `windows`: a Map(key → traffic) of each agent. */
export function gather(windows) {
  const all = new Map();
  for (const window of windows) {
    for (const [key, traffic] of window) all.set(key, [...(all.get(key) ?? []), traffic]);
  }
  return [...all].map(([key, traffics]) => ({ key, edge: traffics[0].edge, traffics, traffic: sum(traffics) }));
}

/** One end of an edge as a node: `by` is "service" or "workload". */
export function endOf(peer, by) {
  const name = (by === "service" ? peer.service || peer.workload : peer.workload || peer.service) || "clients";
  const group = peer.namespace || OUTSIDE;
  return { id: `${group}/${name}`, group, name: peer.namespace || name !== "clients" ? name : "other clients" };
}

/** `namespace/workload` of an end that is one; null for what is outside, or was never chosen. */
export function workloadOf(peer) {
  return peer.namespace && peer.workload ? `${peer.namespace}/${peer.workload}` : null;
}

/**
 * Nodes and edges. An edge's id is `from>to>protocol`.
 * Node: {id, group, name, inbound, outbound, workloads, services}; edge: {id, from, to, protocol, traffic, services}.
 */
export function graph(edges, by) {
  const nodes = new Map();
  const links = new Map();
  const node = (end) => {
    if (!nodes.has(end.id)) nodes.set(end.id, { ...end, in: [], out: [], workloads: new Set(), services: new Set() });
    return nodes.get(end.id);
  };
  for (const { edge, traffics } of edges) {
    const [from, to] = [node(endOf(edge.source, by)), node(endOf(edge.destination, by))];
    for (const [end, peer] of [[from, edge.source], [to, edge.destination]]) {
      if (workloadOf(peer)) end.workloads.add(workloadOf(peer));
    }
    to.services.add(edge.service);
    from.out.push(...traffics);
    to.in.push(...traffics);
    const id = `${from.id}>${to.id}>${edge.protocol}`;
    if (!links.has(id)) links.set(id, { id, from: from.id, to: to.id, protocol: edge.protocol, traffics: [], services: new Set() });
    const link = links.get(id);
    link.traffics.push(...traffics);
    link.services.add(edge.service);
  }
  for (const found of nodes.values()) {
    found.inbound = sum(found.in);
    found.outbound = sum(found.out);
  }
  for (const link of links.values()) link.traffic = sum(link.traffics);
  const order = (a, b) => (a.id < b.id ? -1 : 1);
  return { nodes: [...nodes.values()].sort(order), edges: [...links.values()].sort(order) };
}

/** The part of a graph that a filter leaves: {namespaces: Set|null, text, failing, busy}. */
export function filtered({ nodes, edges }, filter) {
  const words = filter.text.trim().toLowerCase();
  const named = (id) => !words || id.toLowerCase().includes(words);
  const within = new Map(nodes.map((node) => [node.id, !filter.namespaces || filter.namespaces.has(node.group)]));
  const kept = edges.filter(
    ({ from, to, traffic }) =>
      within.get(from) && within.get(to) && (named(from) || named(to)) &&
      (!filter.failing || (traffic.success !== null && traffic.success < 0.999)) &&
      (!filter.busy || traffic.rate > 0 || traffic.open > 0),
  );
  const shown = new Set(kept.flatMap(({ from, to }) => [from, to]));
  return { nodes: nodes.filter(({ id }) => shown.has(id)), edges: kept };
}

/** Edges whose Service is `namespace/name`. */
export function ofService(edges, service) {
  return edges.filter(({ edge }) => edge.service === service);
}

export function ofWorkload(edges, workload) {
  const is = (peer) => workloadOf(peer) === workload;
  return { inbound: edges.filter(({ edge }) => is(edge.destination)), outbound: edges.filter(({ edge }) => is(edge.source)) };
}

/** Traffic of each value of `by`, as rows. */
export function grouped(edges, by) {
  const groups = new Map();
  for (const found of edges) {
    const key = by(found.edge);
    groups.set(key, [...(groups.get(key) ?? []), ...found.traffics]);
  }
  return [...groups].map(([key, traffics]) => ({ key, traffic: sum(traffics) }));
}
