// What several pages show alike: traffic as numbers and lines, edges as tables.

import { attribute, badge, h, svg, text } from "./dom.js";
import { bytes, duration, health, percent, rate } from "./format.js";
import { Table } from "./table.js";

/** Columns of anything with a `traffic`. */
export const TRAFFIC_COLUMNS = [
  { id: "rate", label: "Requests", num: true, cell: ({ traffic }) => volume(traffic), sort: ({ traffic }) => traffic.rate },
  {
    id: "success", label: "Success", num: true, sort: ({ traffic }) => traffic.success,
    cell: ({ traffic }) => ({ text: percent(traffic.success), state: traffic.success === null ? null : health(traffic) }),
  },
  { id: "p50", label: "p50", num: true, cell: ({ traffic }) => duration(traffic.p50), sort: ({ traffic }) => traffic.p50 },
  { id: "p95", label: "p95", num: true, cell: ({ traffic }) => duration(traffic.p95), sort: ({ traffic }) => traffic.p95 },
  { id: "p99", label: "p99", num: true, cell: ({ traffic }) => duration(traffic.p99), sort: ({ traffic }) => traffic.p99 },
];

export const IDLE = { rate: null, success: null, p50: null, p95: null, p99: null, open: 0, total: 0, codes: {}, errors: null, sent: null, received: null, security: "unknown" };

/** Requests per second; of opaque connections how many are open. */
export function volume(traffic) {
  return traffic.open > 0 && !(traffic.rate > 0) ? `${traffic.open} open` : rate(traffic.rate);
}

/** Headline numbers with their last minutes. */
export class Tiles {
  #tiles;
  element;

  constructor() {
    const tile = (label) => {
      const [value, line] = [h("strong", {}, "–"), sparkline()];
      return { value, line, element: h("div", { class: "tile" }, h("span", {}, label), value, line.element) };
    };
    this.#tiles = { rate: tile("requests"), success: tile("success"), p95: tile("p95 latency") };
    this.element = h("div", { class: "tiles" }, ...Object.values(this.#tiles).map(({ element }) => element));
  }

  update(traffic, points) {
    const words = { rate: volume(traffic), success: percent(traffic.success), p95: duration(traffic.p95) };
    for (const [name, { value, line, element }] of Object.entries(this.#tiles)) {
      text(value, words[name]);
      line.draw(points.map((point) => point[name]), name === "success" ? [null, 1] : [0, null]);
      if (name === "success") attribute(element, "data-state", traffic.success === null ? null : health(traffic));
    }
  }
}

/** A line of the last minutes; for the eye only, the number beside it says it in words. */
function sparkline(width = 120, height = 26) {
  const line = svg("path", { class: "spark" });
  const element = svg("svg", { class: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, line);
  const draw = (values, [least, most]) => {
    const known = values.filter((value) => value !== null);
    const low = Math.min(least ?? Infinity, ...known);
    const high = Math.max(most ?? -Infinity, ...known);
    const span = high - low || 1;
    let pen = "M";
    const d = values.map((value, at) => {
      if (value === null) return (pen = "M"), "";
      const x = (width * (at + Math.max(0, 60 - values.length))) / Math.max(59, values.length - 1);
      const step = `${pen}${x.toFixed(1)} ${(height - 2 - ((value - low) / span) * (height - 4)).toFixed(1)}`;
      pen = "L";
      return step;
    });
    attribute(line, "d", known.length > 1 ? d.join("") : "M0 0");
  };
  return { element, draw };
}

/** Answers by code, the share of each as a bar. */
export function codes(traffic) {
  const all = Object.entries(traffic.codes).filter(([, n]) => n > 0).sort(([a], [b]) => (a < b ? -1 : 1));
  const total = all.reduce((most, [, n]) => most + n, 0);
  const kind = (code) => (/^(5|0$|grpc (13|14|15)$)/.test(code) ? "bad" : /^(4|grpc)/.test(code) ? "warn" : "ok");
  const bar = (code, n) => {
    const filled = h("i", { class: kind(code) });
    filled.style.width = `${Math.max(1, (100 * n) / total)}%`;
    return h("li", {}, h("code", {}, code === "0" ? "none" : code), h("span", { class: "bar" }, filled), h("span", { class: "num" }, rate(n)));
  };
  return all.length > 0 ? h("ul", { class: "codes", "aria-label": "Answers by code" }, ...all.map(([code, n]) => bar(code, n))) : null;
}

export function security(traffic) {
  const words = {
    mutual_tls: ["mutual TLS", "ok"],
    none: ["none by the mesh", "plain"],
    mixed: ["partly mutual TLS", "warn"],
  };
  const [word, state] = words[traffic.security] ?? ["encryption unknown", "plain"];
  return badge(word, state);
}

export function trafficFacts(traffic) {
  return [
    ["requests", volume(traffic)],
    ["success", percent(traffic.success)],
    ["p50 · p95 · p99", [traffic.p50, traffic.p95, traffic.p99].map(duration).join(" · ")],
    ["bytes out · in", traffic.sent === null ? null : `${bytes(traffic.sent)}/s · ${bytes(traffic.received)}/s`],
    ["open connections", traffic.open > 0 ? String(traffic.open) : null],
    ["encryption", security(traffic)],
  ];
}

/** Edges as rows {key, name, href, protocol, traffic}. */
export function peerTable(caption, first) {
  const columns = [
    { id: "name", label: first, cell: ({ name, href }) => ({ text: name, href }) },
    { id: "protocol", label: "Protocol", cell: ({ protocol }) => protocol ?? "–" },
    ...TRAFFIC_COLUMNS,
    { id: "security", label: "Encryption", cell: ({ traffic }) => ({ text: security(traffic).textContent, state: traffic.security === "mutual_tls" ? "ok" : null }) },
  ];
  return new Table({ caption, columns, key: ({ key }) => key, sort: ["rate", -1] });
}

export const ENDPOINT_COLUMNS = [
  { id: "addr", label: "Endpoint", cell: ({ addr, address }) => addr ?? address },
  { id: "workload", label: "Pod", cell: ({ workload }) => workload ?? "–" },
  { id: "state", label: "State", cell: endpointState },
  { id: "active", label: "Active", num: true, cell: ({ active }) => active, sort: ({ active }) => active },
  { id: "latency", label: "Latency", num: true, cell: ({ latency_ms }) => duration(latency_ms), sort: ({ latency_ms }) => latency_ms },
  { id: "weight", label: "Weight", num: true, cell: ({ weight }) => weight, sort: ({ weight }) => weight },
  { id: "locality", label: "Locality", cell: ({ locality }) => locality || "–" },
];

function endpointState({ ejected, ejected_ms, avoided, health: state }) {
  if (ejected) return { text: `ejected ${duration(ejected_ms)} more`, state: "bad", title: "left out by outlier detection" };
  if (avoided) return { text: "avoided", state: "bad", title: "connections to it fail; asked only where nothing else is" };
  if (state === "ready") return { text: "ready", state: "ok" };
  return { text: state === "notready" ? "not ready" : state, state: "warn" };
}

export const link = {
  service: (name) => `#/service/${encodeURIComponent(name)}`,
  workload: (name) => `#/workload/${encodeURIComponent(name)}`,
  explain: (query) => `#/explain?${new URLSearchParams(query)}`,
};
