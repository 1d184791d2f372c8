// The graph as SVG. Elements are made when the topology changes; an update touches only what differs.

import { attribute, svg, text } from "./dom.js";
import { duration, health, percent, rate } from "./format.js";
import { fitted, nodeWidth } from "./sizes.js";
import { Viewport } from "./viewport.js";

/** Below this scale names are too small to read: namespaces speak for their nodes. */
const FAR = 0.42;
const NEAR = 0.72;
/** One for all views, made before the first: what it laid out once it need not lay out again. */
const LAYOUT = new Worker(new URL("./layout-worker.js", import.meta.url), { type: "module" });
const ARROWS = ["ok", "warn", "bad", "idle"];

let turns = 0;

export class GraphView {
  selected = null;
  label = "rate";
  #root;
  #layers;
  #viewport;
  #nodes = new Map();
  #edges = new Map();
  #placed = null;
  #settled = false;
  #model = { nodes: [], edges: [] };
  #topology = "";
  #turn = 0;
  #onselect;
  #current = null;

  constructor(onselect) {
    this.#onselect = onselect;
    const layer = (name) => svg("g", { class: name });
    this.#layers = { groups: layer("groups"), links: layer("links"), edges: layer("edges"), nodes: layer("nodes"), labels: layer("labels") };
    const stage = svg("g", {}, ...Object.values(this.#layers));
    this.#root = svg(
      "svg",
      { class: "graph", role: "application", "aria-label": "Service graph. Arrow keys move between services, Enter opens one, plus and minus zoom, 0 shows all." },
      svg("defs", {}, ...ARROWS.map(arrow)),
      stage,
    );
    this.#viewport = new Viewport(this.#root, ({ x, y, scale }) => {
      attribute(stage, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${scale.toFixed(4)})`);
      this.#root.style.setProperty("--inverse", (1 / scale).toFixed(3));
      this.#root.classList.toggle("far", scale < FAR);
      this.#root.classList.toggle("near", scale >= NEAR);
    });
    this.#root.addEventListener("click", () => this.select(null));
    this.#root.addEventListener("keydown", (event) => this.#key(event));
    // The turn is the view's own: an answer to a view that was closed is dropped.
    LAYOUT.onmessage = ({ data }) => data.turn === this.#turn && this.#draw(data.placed, data.final);
    this.resized = new ResizeObserver(() => this.#viewport.touched || this.fit());
    this.resized.observe(this.#root);
  }

  get element() {
    return this.#root;
  }

  close() {
    LAYOUT.onmessage = null;
    this.resized.disconnect();
  }

  fit() {
    if (this.#placed) this.#viewport.fit(this.#placed.width, this.#placed.height);
  }

  zoom(factor) {
    this.#viewport.zoom(factor);
  }

  /** Draws a model of `model.graph`. */
  update(model) {
    this.#model = model;
    const topology = JSON.stringify([model.nodes.map((node) => node.id), model.edges.map((edge) => edge.id)]);
    if (topology !== this.#topology) {
      this.#topology = topology;
      const { clientWidth, clientHeight } = this.#root;
      LAYOUT.postMessage({
        turn: (this.#turn = ++turns),
        aspect: clientHeight > 0 ? clientWidth / clientHeight : 1.6,
        nodes: model.nodes.map(({ id, group, name }) => ({ id, group, name })),
        edges: model.edges.map(({ id, from, to }) => ({ id, from, to })),
      });
    }
    if (this.#placed) this.#refresh();
  }

  select(id, { reveal = false } = {}) {
    this.selected = id;
    const at = this.#placed?.nodes[id];
    if (at && reveal) this.#viewport.enlarge(at.x, at.y, NEAR);
    if (at) this.#rove(id);
    this.#highlight();
    this.#onselect(id);
  }

  /** `final`: a better layout of the same does not follow. */
  #draw(placed, final) {
    const first = final && !this.#settled;
    this.#settled ||= final;
    this.#placed = placed;
    const { groups, links, edges, nodes, labels } = this.#layers;
    const focused = nodes.contains(document.activeElement);
    groups.replaceChildren(...Object.entries(placed.groups).map(([id, box]) => groupFrame(id, box)));
    links.replaceChildren(...placed.links.map(({ from, to, points }) => svg("path", { class: "link", d: points ? curve(points) : direct(placed.groups[from], placed.groups[to]).d })));
    this.#edges = new Map(this.#model.edges.filter((edge) => placed.nodes[edge.from] && placed.nodes[edge.to]).map((edge) => [edge.id, this.#edge(edge)]));
    edges.replaceChildren(...[...this.#edges.values()].map(({ group }) => group));
    labels.replaceChildren(...[...this.#edges.values()].map(({ label }) => label));
    this.#nodes = new Map(this.#model.nodes.filter(({ id }) => placed.nodes[id]).map((node) => [node.id, this.#node(node)]));
    nodes.replaceChildren(...[...this.#nodes.values()].map(({ group }) => group));
    this.#rove(this.#nodes.has(this.#current) ? this.#current : this.#model.nodes[0]?.id);
    // The elements are new: without this the keyboard would be out of the graph whenever somebody calls somebody new.
    if (focused) this.#nodes.get(this.#current)?.group.focus({ preventScroll: true });
    this.#refresh();
    this.#highlight();
    if (first || !this.#viewport.touched) this.fit();
    this.#root.dataset.layout = final ? "final" : "rough";
    if (first && this.selected && placed.nodes[this.selected]) this.select(this.selected, { reveal: true });
    this.#root.dataset.drawn = String(this.#nodes.size);
  }

  #node(node) {
    const { x, y, height } = this.#placed.nodes[node.id];
    const width = nodeWidth(node.name);
    const name = svg("text", { class: "name", x: 14 - width / 2, y: -4 }, fitted(node.name));
    const numbers = svg("text", { class: "numbers", x: 14 - width / 2, y: 12 });
    const group = svg(
      "g",
      {
        class: "node", role: "button", tabindex: -1, transform: `translate(${x} ${y})`, "data-id": node.id,
        onclick: (event) => (event.stopPropagation(), this.select(node.id, { reveal: this.#viewport.scale < FAR })),
        onpointerenter: () => this.#highlight(node.id),
        onpointerleave: () => this.#highlight(),
      },
      svg("rect", { class: "body", x: -width / 2, y: -height / 2, width, height, rx: 4 }),
      svg("rect", { class: "state", x: -width / 2, y: -height / 2, width: 4, height, rx: 2 }),
      name,
      numbers,
    );
    return { group, numbers };
  }

  #edge(edge) {
    const inside = this.#placed.edges[edge.id];
    const points = inside ?? direct(this.#placed.nodes[edge.from], this.#placed.nodes[edge.to]);
    const d = inside ? curve(points) : points.d;
    const middle = inside ? points[Math.floor(points.length / 2)] : points.middle;
    const line = svg("path", { class: "line", d });
    const choose = (event) => (event.stopPropagation(), this.select(edge.id));
    const group = svg("g", { class: inside ? "edge" : "edge across", "data-id": edge.id, onclick: choose }, svg("path", { class: "touch", d }), line);
    const label = svg("text", { class: inside ? "label" : "label across", x: middle.x, y: middle.y - 5, onclick: choose });
    return { group, line, label };
  }

  #refresh() {
    for (const node of this.#model.nodes) {
      const drawn = this.#nodes.get(node.id);
      if (!drawn) continue;
      const traffic = node.inbound.total > 0 || node.inbound.open > 0 ? node.inbound : node.outbound;
      const state = health(traffic);
      attribute(drawn.group, "data-state", state);
      const numbers = traffic.rate > 0 ? `${rate(traffic.rate)}  ${percent(traffic.success)}` : traffic.open > 0 ? `${traffic.open} open` : traffic.rate === null ? "" : "idle";
      text(drawn.numbers, numbers);
      attribute(drawn.group, "aria-label", `${node.name}, namespace ${node.group}, ${numbers.replace("/s", " requests per second, success")}${state === "bad" ? ", failing" : ""}`);
    }
    for (const edge of this.#model.edges) {
      const drawn = this.#edges.get(edge.id);
      if (!drawn) continue;
      const { traffic } = edge;
      const state = health(traffic);
      attribute(drawn.group, "data-state", state);
      attribute(drawn.label, "data-state", state);
      attribute(drawn.group, "data-security", traffic.security);
      attribute(drawn.line, "stroke-width", (1.1 + Math.min(3.4, Math.log10(1 + (traffic.rate ?? 0)) * 1.1)).toFixed(1));
      text(drawn.label, this.#words(traffic));
    }
  }

  #words(traffic) {
    if (this.label === "none" || !(traffic.rate > 0 || traffic.open > 0)) return "";
    const lock = traffic.security === "mutual_tls" ? "\u{1F512}\uFE0E " : "";
    if (!(traffic.rate > 0)) return `${lock}${traffic.open} open`;
    const words = { rate: rate(traffic.rate), success: percent(traffic.success), p95: duration(traffic.p95) };
    return lock + words[this.label];
  }

  /** The selected node or edge (or the one pointed at) and its neighbours stand out, all else steps back. */
  #highlight(hovered = null) {
    const id = hovered ?? this.selected;
    const near = new Set(id ? [id] : []);
    for (const { id: edge, from, to } of id ? this.#model.edges : []) {
      if (from === id || to === id || edge === id) for (const each of [edge, from, to]) near.add(each);
    }
    this.#root.classList.toggle("chosen", near.size > 0);
    for (const [each, { group }] of this.#nodes) {
      group.classList.toggle("lit", near.has(each));
      group.classList.toggle("selected", each === this.selected);
    }
    for (const [each, { group, label }] of this.#edges) {
      for (const element of [group, label]) element.classList.toggle("lit", near.has(each));
      group.classList.toggle("selected", each === this.selected);
    }
  }

  /** One node is in the order of Tab; the arrow keys move it. */
  #rove(id, focus = false) {
    this.#nodes.get(this.#current)?.group.setAttribute("tabindex", -1);
    this.#current = id;
    const node = this.#nodes.get(id)?.group;
    node?.setAttribute("tabindex", 0);
    if (focus) {
      node?.focus({ preventScroll: true });
      const { x, y } = this.#placed.nodes[id];
      this.#viewport.reveal(x, y);
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const others = {
      "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit(),
      Enter: () => this.select(this.#current, { reveal: true }), " ": () => this.select(this.#current),
    };
    if (ways[event.key]) this.#step(...ways[event.key]);
    else if (others[event.key]) others[event.key]();
    else return;
    event.preventDefault();
  }

  /** To the nearest node on that side; what lies off the way counts double. */
  #step(dx, dy) {
    const from = this.#placed?.nodes[this.#current];
    if (!from) return;
    let best = [Infinity, null];
    for (const [id, at] of Object.entries(this.#placed.nodes)) {
      const [along, off] = [(at.x - from.x) * dx + (at.y - from.y) * dy, Math.abs((at.x - from.x) * dy) + Math.abs((at.y - from.y) * dx)];
      if (id !== this.#current && along > 1 && along + 2 * off < best[0]) best = [along + 2 * off, id];
    }
    if (best[1]) this.#rove(best[1], true);
  }
}

function arrow(state) {
  return svg("marker", { id: `arrow-${state}`, class: `arrow ${state}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" }, svg("path", { d: "M0 0.8 7.5 4 0 7.2z" }));
}

function groupFrame(id, { x, y, width, height }) {
  return svg(
    "g", { class: "group", transform: `translate(${x - width / 2} ${y - height / 2})` },
    svg("rect", { width, height, rx: 6 }),
    svg("text", { class: "title", x: 14, y: 24 }, id),
    svg("text", { class: "title-far", x: 4, y: -8 }, id),
  );
}

/** A smooth line through the bends of a layered layout. */
function curve(points) {
  const [first, ...rest] = points;
  if (rest.length < 2) return `M${at(first)}L${rest.map(at).join("L")}`;
  let d = `M${at(first)}`;
  for (let i = 0; i < rest.length - 1; i++) {
    const end = i === rest.length - 2 ? rest[i + 1] : { x: (rest[i].x + rest[i + 1].x) / 2, y: (rest[i].y + rest[i + 1].y) / 2 };
    d += `Q${at(rest[i])} ${at(end)}`;
  }
  return d;
}

/** Between namespaces, or beside the layout: from the side of one node that looks at the other. */
function direct(a, b) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  if (dx === 0 && dy === 0) {
    const [x, y] = [a.x + a.width / 2, a.y];
    return { d: `M${x} ${y - 8}c34 -22 34 38 0 16`, middle: { x: x + 26, y } };
  }
  const wide = Math.abs(dx) > Math.abs(dy) && Math.abs(dx) > (a.width + b.width) / 2;
  const [sx, sy] = [Math.sign(dx) || 1, Math.sign(dy) || 1];
  const from = wide ? { x: a.x + (sx * a.width) / 2, y: a.y } : { x: a.x, y: a.y + (sy * a.height) / 2 };
  const to = wide ? { x: b.x - (sx * b.width) / 2, y: b.y } : { x: b.x, y: b.y - (sy * b.height) / 2 };
  const [bx, by] = wide ? [(to.x - from.x) / 2, 0] : [0, (to.y - from.y) / 2];
  const middle = { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 };
  return { d: `M${at(from)}C${at({ x: from.x + bx, y: from.y + by })} ${at({ x: to.x - bx, y: to.y - by })} ${at(to)}`, middle };
}

function at({ x, y }) {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}
