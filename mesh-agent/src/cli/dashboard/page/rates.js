// Agents count from their start; people want rates. Pure functions, run by the browser and by tests.

/** Seconds over which rates are taken: long enough to be steady, short enough to be live. */
export const WINDOW = 10;
/** Answers of one agent are kept this far apart, seconds. */
const SPACING = 1;

/** What is the same edge in two answers, and in two agents' answers. */
export function keyOf(edge) {
  const { source: a, destination: b } = edge;
  return [a.namespace, a.workload, b.namespace, b.workload, edge.service, edge.protocol].join("|");
}

/** One agent's recent answers. */
export class Window {
  #answers = [];

  /** `at` in seconds of any steady clock. Returns the traffic per edge since the oldest answer that still counts. */
  add(at, graph) {
    const edges = new Map(graph.edges.map((edge) => [keyOf(edge), edge]));
    const answers = this.#answers;
    // The youngest but one is replaced while it is too young: polls may come five times a second.
    if (answers.length > 1 && at - answers[answers.length - 2].at < SPACING) answers.pop();
    answers.push({ at, edges });
    while (answers.length > 2 && at - answers[1].at >= WINDOW) answers.shift();
    const first = answers[0];
    const seconds = answers.length > 1 ? at - first.at : 0;
    return new Map([...edges].map(([key, edge]) => [key, perSecond(first.edges.get(key), edge, seconds, graph.bounds_ms)]));
  }
}

/** One edge's traffic per second; rates are null before there are two answers. */
function perSecond(before, edge, seconds, bounds) {
  const per = (name) => {
    if (!(seconds > 0)) return null;
    const [old, now] = [before?.[name] ?? 0, edge[name] ?? 0];
    // A counter that fell was reset: its agent started anew.
    return (now >= old ? now - old : now) / seconds;
  };
  const each = (now, old) => (seconds > 0 ? now.map((n, at) => Math.max(0, n >= (old?.[at] ?? 0) ? n - (old?.[at] ?? 0) : n) / seconds) : null);
  const codes = {};
  for (const [code, now] of Object.entries(edge.codes ?? {})) {
    const old = before?.codes?.[code] ?? 0;
    if (seconds > 0) codes[code] = (now >= old ? now - old : now) / seconds;
  }
  return {
    edge,
    bounds,
    rate: per("requests"),
    errors: per("failures"),
    codes,
    buckets: each(edge.buckets ?? [], before?.buckets),
    sent: per("request_bytes"),
    received: per("response_bytes"),
    opened: per("opened"),
    open: edge.open ?? 0,
    total: edge.requests ?? 0,
    security: edge.security,
  };
}

/** Several traffics as one: of several agents, or all edges of a node. */
export function sum(traffics) {
  const total = { rate: null, errors: null, sent: null, received: null, opened: null, open: 0, total: 0, codes: {}, buckets: null, bounds: [] };
  const securities = new Set();
  for (const traffic of traffics) {
    for (const name of ["rate", "errors", "sent", "received", "opened"]) {
      if (traffic[name] !== null) total[name] = (total[name] ?? 0) + traffic[name];
    }
    total.open += traffic.open;
    total.total += traffic.total;
    for (const [code, n] of Object.entries(traffic.codes)) total.codes[code] = (total.codes[code] ?? 0) + n;
    if (traffic.buckets?.length) {
      total.bounds = traffic.bounds;
      total.buckets = traffic.buckets.map((n, at) => n + (total.buckets?.[at] ?? 0));
    }
    if (traffic.security) securities.add(traffic.security);
  }
  const quantiles = [0.5, 0.95, 0.99].map((q) => quantile(q, total.bounds, total.buckets ?? []));
  [total.p50, total.p95, total.p99] = quantiles;
  total.success = total.rate > 0 ? 1 - Math.min(1, total.errors / total.rate) : null;
  total.security = securities.size > 1 ? "mixed" : (securities.values().next().value ?? "unknown");
  return total;
}

/**
 * A quantile of counts per bucket (the last one beyond all bounds), straight within a bucket as Prometheus'
 * histogram_quantile() has it; null where nothing was counted.
 */
export function quantile(q, bounds, buckets) {
  const all = buckets.reduce((a, b) => a + b, 0);
  if (!(all > 0)) return null;
  let left = q * all;
  for (let at = 0; at < buckets.length; at++) {
    if (left <= buckets[at]) {
      if (at >= bounds.length) return bounds[bounds.length - 1] ?? null;
      const from = at > 0 ? bounds[at - 1] : 0;
      return from + (bounds[at] - from) * (buckets[at] > 0 ? left / buckets[at] : 1);
    }
    left -= buckets[at];
  }
  return bounds[bounds.length - 1] ?? null;
}
