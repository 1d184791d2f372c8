// The page's own arithmetic, without a browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { PAGE, releasedLayout } from "./support.mjs";
import { mesh } from "./synthetic.mjs";

const load = (name) => import(join(PAGE, name));
const { quantile, sum, Window } = await load("rates.js");
const { filtered, gather, graph, OUTSIDE } = await load("model.js");
const { age, bytes, duration, percent, rate, short } = await load("format.js");
const { place, rough } = await load("layout.js");

const edge = (from, to, more = {}) => ({
  source: { namespace: "a", workload: from, service: from.split("-")[0] },
  destination: { namespace: "b", workload: to, service: to.split("-")[0] },
  service: `b/${to.split("-")[0]}`, protocol: "http", security: "none", requests: 0, failures: 0, codes: {}, buckets: [0, 0, 0], ...more,
});
const answer = (...edges) => ({ bounds_ms: [10, 100], edges });

test("the bundled layout library is the released one", () => {
  const { code, licence } = releasedLayout();
  assert.equal(readFileSync(join(PAGE, "vendor/dagre.js"), "utf8"), code, "run mesh-test/console/vendor.mjs");
  assert.equal(readFileSync(join(PAGE, "vendor/dagre.LICENSE.txt"), "utf8"), licence);
});

test("rates are differences over the window, and a restart is no negative one", () => {
  const window = new Window();
  const at = (seconds, requests, failures = 0) => [...window.add(seconds, answer(edge("web", "db", { requests, failures, buckets: [requests, 0, 0], codes: { 200: requests } }))).values()][0];
  assert.equal(at(0, 1000).rate, null, "one answer has no rate");
  assert.equal(at(2, 1020, 2).rate, 10);
  assert.deepEqual(at(4, 1040, 2).codes, { 200: 10 });
  for (let second = 5; second <= 20; second++) at(second, 1040 + (second - 4) * 50);
  const late = at(21, 1040 + 17 * 50);
  assert.equal(late.rate, 50, "the first answers no longer count");
  assert.equal(at(22, 5).rate >= 0, true);
  assert.equal(Math.min(...at(23, 10).buckets) >= 0, true);
});

test("five answers a second do not shorten the window", () => {
  const window = new Window();
  let last;
  for (let n = 0; n <= 100; n++) last = [...window.add(n / 5, answer(edge("web", "db", { requests: n * 4 }))).values()][0];
  assert.ok(Math.abs(last.rate - 20) < 0.01, String(last.rate));
});

test("two agents' edges are one", () => {
  const windows = [1, 3].map((factor) => {
    const window = new Window();
    window.add(0, answer(edge("web-1", "db", { requests: 0 })));
    return window.add(10, answer(edge("web-1", "db", { requests: 100 * factor, failures: 10, buckets: [90 * factor, 10 * factor, 0] })));
  });
  const [only] = gather(windows);
  assert.equal(only.traffic.rate, 40);
  assert.equal(only.traffic.success, 1 - 2 / 40);
  assert.equal(sum(only.traffics).p50, quantile(0.5, [10, 100], [36, 4, 0]));
});

test("quantiles as Prometheus has them", () => {
  assert.equal(quantile(0.5, [10, 100], [0, 0, 0]), null);
  assert.equal(quantile(0.5, [10, 100], [10, 0, 0]), 5);
  assert.equal(quantile(0.75, [10, 100], [50, 50, 0]), 55);
  assert.equal(quantile(0.99, [10, 100], [0, 0, 5]), 100, "beyond all bounds: the last one");
});

test("services gather workloads, and strangers stand outside", () => {
  const stranger = { ...edge("x", "db-v2"), source: { namespace: "", workload: "", service: "" } };
  const edges = gather([new Window().add(0, answer(edge("web-v1", "db-v1"), edge("web-v2", "db-v1"), stranger))]);
  const byService = graph(edges, "service");
  assert.deepEqual(byService.nodes.map(({ id }) => id), ["a/web", "b/db", `${OUTSIDE}/clients`]);
  assert.equal(byService.edges.length, 2);
  assert.equal(graph(edges, "workload").nodes.length, 5);
  const none = { namespaces: null, text: "", failing: false, busy: false };
  assert.equal(filtered(byService, { ...none, text: "WEB" }).edges.length, 1);
  assert.equal(filtered(byService, { ...none, namespaces: new Set(["a"]) }).nodes.length, 0);
  assert.equal(filtered(byService, { ...none, busy: true }).nodes.length, 0);
});

test("200 services are laid out without overlap, and what does not change stays", () => {
  const { edges } = mesh();
  const id = (service) => (service ? `${service.namespace}/${service.name}` : "outside/clients");
  const ends = new Map(edges.flatMap(({ caller, callee }) => [caller, callee]).map((s) => [id(s), { id: id(s), group: id(s).split("/")[0], name: id(s).split("/")[1] }]));
  const input = { nodes: [...ends.values()], edges: edges.map(({ caller, callee }, at) => ({ id: `e${at}`, from: id(caller), to: id(callee) })), aspect: 1.4 };
  // A circle too: who is called by whom they call.
  input.edges.push(...input.edges.slice(0, 9).map(({ from, to }, at) => ({ id: `back${at}`, from: to, to: from })));
  const cache = new Map();
  const apart = (a, b) => Math.abs(a.x - b.x) * 2 >= a.width + b.width || Math.abs(a.y - b.y) * 2 >= a.height + b.height;
  const check = (placed) => {
    const boxes = Object.entries(placed.nodes);
    assert.equal(boxes.length, input.nodes.length);
    for (const [name, a] of boxes) {
      for (const [other, b] of boxes) assert.ok(name === other || apart(a, b), `${name} covers ${other}`);
      const frame = placed.groups[name.split("/")[0]];
      assert.ok(Math.abs(a.x - frame.x) * 2 <= frame.width - a.width && Math.abs(a.y - frame.y) * 2 <= frame.height - a.height, `${name} leaves its frame`);
    }
    return boxes;
  };
  for (const aspect of [1.4, 0.5]) check(rough({ ...input, aspect }, cache));
  const placed = place(input, cache);
  const boxes = check(placed);
  assert.equal(rough(input, cache), null, "what was laid out once is not laid out roughly");
  assert.equal(rough({ ...input, nodes: input.nodes.slice(0, 9) }, new Map()), null, "a small mesh need not wait");
  assert.deepEqual(place(input, cache), placed, "the same mesh has the same places");
  const grown = place({ ...input, nodes: [...input.nodes, { id: "shop/new", group: "shop", name: "new" }] }, cache);
  const within = (of, name) => [of.nodes[name].x - of.groups.media.x, of.nodes[name].y - of.groups.media.y];
  for (const [name] of boxes.filter(([name]) => name.startsWith("media/"))) assert.deepEqual(within(grown, name), within(placed, name));
});

test("an empty mesh, a lone service and one that calls itself have a place", () => {
  assert.deepEqual(place({ nodes: [], edges: [], aspect: 1 }).nodes, {});
  const lone = { id: "a/x", group: "a", name: "x" };
  assert.ok(place({ nodes: [lone], edges: [{ id: "e", from: "a/x", to: "a/x" }], aspect: 1 }).nodes["a/x"].width > 0);
});

test("numbers are short and never flatter", () => {
  assert.deepEqual([0, 0.04, 3.2, 45, 999, 1234, 45_678, 3.4e6].map(short), ["0", "0.04", "3.2", "45", "999", "1.2k", "46k", "3.4M"]);
  assert.deepEqual([1, 0.99996, 0.9991, 0.9312, 0, null].map(percent), ["100 %", "99.99 %", "99.9 %", "93.1 %", "0 %", "–"]);
  assert.deepEqual([0.42, 3.14, 45.2, 1234, 90_000, null].map(duration), ["0.42 ms", "3.1 ms", "45 ms", "1.2 s", "1 min 30 s", "–"]);
  assert.deepEqual([5, 65, 3600, 90_061].map(age), ["5 s", "1 min 5 s", "1 h", "1 d 1 h"]);
  assert.deepEqual([10, 2048, 5 * 2 ** 20].map(bytes), ["10 B", "2.0 KiB", "5.0 MiB"]);
  assert.equal(rate(null), "–");
});
