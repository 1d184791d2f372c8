// Where nodes stand: a layered layout of each namespace, and one of the namespaces among themselves. Two small problems
// instead of one large: 200 services take a fraction of the time, a namespace is a place, and what is new in one
// namespace leaves the others as they are. Pure but for its cache.

import { CHARACTER, NODE_HEIGHT, nodeWidth } from "./sizes.js";
import { ranked } from "./layout-rough.js";
import { Graph, layout } from "./vendor/dagre.js";

/** A namespace's frame: beside its nodes, and above them for its name. */
const PAD = 18;
const TITLE = 26;
/** Between namespaces: their names are above them when they are small. */
const GAP = 64;
/** Pairs of namespaces that call each other, of which layers may be drawn. */
const MOST_LAYERED = 24;
/** Layers say more than rows: they may be this much smaller. */
const ROOM_FOR_LAYERS = 1.35;
/** From this many edges on, a namespace is laid out by each node's first callers only. */
const DENSE = 120;
/** From this many nodes on, people would wait for the layout: a rough one goes before it. */
const LARGE = 60;

/**
 * `nodes`: [{id, group, name}], `edges`: [{id, from, to}], `aspect`: width / height of the view.
 * Returns {nodes: {id: {x, y, width, height}} (centres), groups: {id: {x, y, width, height}} (centres),
 * edges: {id: [{x, y}…]} of edges inside a namespace, links: [{from, to, points}] between namespaces
 * (points: null where nothing keeps their lines apart), width, height}.
 */
export function place(model, cache = new Map()) {
  return arranged(model, (id, members, edges, direction) => cached(cache, `${direction}|${id}`, members, edges, () => placeGroup(members, edges, direction, layered)));
}

/** The same at once, with crossing lines, for a large mesh that was never laid out; else null. */
export function rough(model, cache) {
  if (cache.size > 0 || model.nodes.length < LARGE) return null;
  return arranged(model, (_, members, edges, direction) => placeGroup(members, edges, direction, ranked));
}

function arranged({ nodes, edges, aspect }, group) {
  const direction = aspect < 0.8 ? "TB" : "LR";
  const groupOf = new Map(nodes.map((node) => [node.id, node.group]));
  const groups = new Map();
  for (const node of nodes) groups.set(node.group, [...(groups.get(node.group) ?? []), node]);
  const inside = [...groups].map(([id, members]) => {
    const own = edges.filter(({ from, to }) => groupOf.get(from) === id && groupOf.get(to) === id);
    return { id, ...group(id, members, own, direction) };
  });
  const between = new Map();
  for (const { from, to } of edges) {
    const [a, b] = [groupOf.get(from), groupOf.get(to)];
    if (a !== b) between.set(`${a}>${b}`, { from: a, to: b });
  }
  const outer = placeGroups(inside, [...between.values()], aspect);
  const result = { nodes: {}, groups: {}, edges: {}, links: outer.links, width: outer.width, height: outer.height };
  for (const group of inside) {
    const box = outer.boxes[group.id];
    result.groups[group.id] = box;
    const [left, top] = [box.x - box.width / 2 + PAD, box.y - box.height / 2 + PAD + TITLE];
    for (const [id, at] of Object.entries(group.nodes)) result.nodes[id] = { ...at, x: at.x + left, y: at.y + top };
    for (const [id, points] of Object.entries(group.edges)) {
      result.edges[id] = points.map(({ x, y }) => ({ x: x + left, y: y + top }));
    }
  }
  return result;
}

function cached(cache, id, members, edges, make) {
  const shape = JSON.stringify([members.map((node) => node.id), edges.map((edge) => edge.id)]);
  const known = cache.get(id);
  if (known?.shape === shape) return known.made;
  const made = make();
  cache.set(id, { shape, made });
  return made;
}

function placeGroup(members, edges, direction, linkedBy) {
  const linked = new Set(edges.filter(({ from, to }) => from !== to).flatMap(({ from, to }) => [from, to]));
  const placed = linkedBy(members.filter(({ id }) => linked.has(id)), edges, direction);
  const loners = members.filter(({ id }) => !linked.has(id));
  if (loners.length === 0) return placed;
  // Who calls nobody here is called by others: rows below, as wide as the rest.
  const cell = Math.max(...loners.map(({ name }) => nodeWidth(name))) + 16;
  const columns = Math.max(1, Math.floor(placed.width / cell), Math.ceil(Math.sqrt(loners.length / 3)));
  const top = placed.height > 0 ? placed.height + 22 : 0;
  loners.forEach(({ id, name }, at) => {
    const [column, row] = [at % columns, Math.floor(at / columns)];
    const x = column * cell + (cell - 16) / 2;
    placed.nodes[id] = { x, y: top + row * (NODE_HEIGHT + 18) + NODE_HEIGHT / 2, width: nodeWidth(name), height: NODE_HEIGHT };
  });
  const rows = Math.ceil(loners.length / columns);
  placed.width = Math.max(placed.width, Math.min(columns, loners.length) * cell - 16);
  placed.height = top + rows * (NODE_HEIGHT + 18) - 18;
  return placed;
}

function layered(members, edges, rankdir) {
  if (members.length === 0) return { nodes: {}, edges: {}, width: 0, height: 0 };
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir, nodesep: 20, ranksep: rankdir === "LR" ? 96 : 64, edgesep: 14, ranker: "longest-path" });
  for (const { id, name } of members) graph.setNode(id, { width: nodeWidth(name), height: NODE_HEIGHT });
  const known = edges.filter(({ from, to }) => from !== to && graph.hasNode(from) && graph.hasNode(to));
  for (const { id, from, to } of known.length > DENSE ? firstCallers(known) : known) graph.setEdge(from, to, {}, id);
  layout(graph);
  const { width = 0, height = 0 } = graph.graph();
  const nodes = Object.fromEntries(graph.nodes().map((id) => [id, box(graph.node(id))]));
  const drawn = Object.fromEntries(graph.edges().map((edge) => [edge.name, graph.edge(edge).points]));
  return { nodes, edges: drawn, width, height };
}

/** At most two callers of each node, by name, so that the choice does not change with the traffic. */
function firstCallers(edges) {
  const kept = new Map();
  return edges.filter(({ to }) => {
    kept.set(to, (kept.get(to) ?? 0) + 1);
    return kept.get(to) <= 2;
  });
}

/** Layers of namespaces where that leaves them large enough to read, else rows of them, callers first. */
function placeGroups(inside, between, aspect) {
  const boxes = inside.map(({ id, width, height }) => ({ id, width: Math.max(width, id.length * CHARACTER + 20) + 2 * PAD, height: height + 2 * PAD + TITLE }));
  const rows = rowGroups(boxes, between, aspect);
  // Layers of everybody who calls everybody are long, thin, and take their time.
  if (between.length > MOST_LAYERED) return rows;
  const [layers] = ["LR", "TB"].map((rankdir) => layerGroups(boxes, between, rankdir)).sort((a, b) => fit(b, aspect) - fit(a, aspect));
  return boxes.length < 4 || fit(layers, aspect) * ROOM_FOR_LAYERS >= fit(rows, aspect) ? layers : rows;
}

function layerGroups(boxes, between, rankdir) {
  const graph = new Graph();
  graph.setGraph({ rankdir, nodesep: GAP, ranksep: GAP * 1.4, marginx: 20, marginy: GAP, ranker: "longest-path" });
  for (const { id, width, height } of boxes) graph.setNode(id, { width, height });
  for (const { from, to } of between) graph.setEdge(from, to, {});
  layout(graph);
  const { width = 0, height = 0 } = graph.graph();
  const links = graph.edges().map((edge) => ({ from: edge.v, to: edge.w, points: graph.edge(edge).points }));
  return { boxes: Object.fromEntries(graph.nodes().map((id) => [id, box(graph.node(id))])), links, width, height };
}

function rowGroups(boxes, between, aspect) {
  // Who calls more namespaces than call it comes first; the name decides between equals.
  const balance = new Map(boxes.map(({ id }) => [id, 0]));
  for (const { from, to } of between) {
    balance.set(from, balance.get(from) + 1);
    balance.set(to, balance.get(to) - 1);
  }
  const order = [...boxes].sort((a, b) => balance.get(b.id) - balance.get(a.id) || (a.id < b.id ? -1 : 1));
  const area = boxes.reduce((sum, { width, height }) => sum + (width + GAP) * (height + GAP), 0);
  const widest = Math.max(...boxes.map(({ width }) => width)) + 2 * GAP;
  const tries = [0.9, 1, 1.1, 1.2, 1.35, 1.5].map((slack) => fillRows(order, Math.max(widest, Math.sqrt(area * aspect) * slack)));
  const best = tries.reduce((best, next) => (fit(next, aspect) > fit(best, aspect) ? next : best));
  return { ...best, links: between.map(({ from, to }) => ({ from, to, points: null })) };
}

function fillRows(order, wide) {
  const placed = {};
  let [x, y, tall, most] = [GAP, GAP, 0, 0];
  for (const { id, width, height } of order) {
    if (x > GAP && x + width + GAP > wide) [x, y, tall] = [GAP, y + tall + GAP, 0];
    placed[id] = { x: x + width / 2, y: y + height / 2, width, height };
    x += width + GAP;
    [tall, most] = [Math.max(tall, height), Math.max(most, x)];
  }
  return { boxes: placed, width: most, height: y + tall + GAP };
}

/** How large it can be drawn in a view of this shape. */
function fit({ width, height }, aspect) {
  return Math.min(aspect / width, 1 / height);
}

function box({ x, y, width, height }) {
  return { x, y, width, height };
}
