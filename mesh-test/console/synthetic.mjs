// A mesh that is not there: agents that answer on their sockets as real ones do, for a seeded mesh of any size.
// `console.test.mjs` asks each with mesh-agent's own subcommands first, so that these answers stay of the real shape.

import http from "node:http";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";

const BOUNDS_MS = [0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000];
const KINDS = ["api", "web", "worker", "gateway", "cache", "db", "search", "auth", "ledger", "mail", "quote", "stock", "cart", "feed", "rank", "image", "audit", "report"];

/** mulberry32: the same mesh for the same seed, everywhere. */
function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Services in layers: who is called calls deeper ones of its own namespace mostly, of others sometimes. */
export function mesh({ services = 200, pods = 2000, namespaces = 12, nodes = 2, seed = 7 } = {}) {
  const roll = random(seed);
  const names = ["shop", "payments", "search", "accounts", "media", "orders", "delivery", "insight", "support", "catalog", "platform", "partners"];
  const all = Array.from({ length: services }, (_, at) => {
    const namespace = names[at % namespaces] ?? `team-${at % namespaces}`;
    const within = Math.floor(at / namespaces);
    const kind = KINDS[within % KINDS.length];
    const layer = within === 0 ? 0 : 1 + Math.floor(roll() * 4);
    return { at, namespace, name: within < KINDS.length ? kind : `${kind}-${within}`, layer, protocol: roll() < 0.15 ? "tcp" : roll() < 0.5 ? "grpc" : "http", pods: [] };
  });
  const edges = [];
  for (const caller of all) {
    const wanted = caller.layer === 0 ? 4 : Math.floor(roll() * 4);
    const deeper = (own) => all.filter((s) => s.layer > caller.layer && (s.namespace === caller.namespace) === own);
    for (let n = 0; n < wanted; n++) {
      const choice = deeper(roll() < 0.75);
      const callee = choice[Math.floor(roll() * choice.length)];
      if (callee && !edges.some((e) => e.caller === caller && e.callee === callee)) {
        const ill = roll();
        edges.push({ caller, callee, rate: 10 ** (roll() * 2.6 - 0.3), fails: ill > 0.97 ? 0.08 : ill > 0.92 ? 0.004 : 0, ms: 10 ** (roll() * 2), phase: roll() * 7 });
      }
    }
  }
  // Nobody is without a caller.
  for (const callee of all.filter((s) => s.layer > 0 && !edges.some((e) => e.callee === s))) {
    const above = all.filter((s) => s.namespace === callee.namespace && s.layer < callee.layer);
    edges.push({ caller: above[Math.floor(roll() * above.length)], callee, rate: 1 + roll() * 20, fails: 0, ms: 3 + roll() * 20, phase: roll() * 7 });
  }
  for (const entry of all.filter((s) => s.layer === 0)) edges.push({ caller: null, callee: entry, rate: 20 + roll() * 200, fails: 0, ms: 30 + roll() * 40, phase: roll() * 7 });
  for (let at = 0; at < pods; at++) {
    const service = all[at % services];
    const node = Math.floor(roll() * nodes);
    service.pods.push({ name: `${service.namespace}/${service.name}-${service.pods.length}`, node, ip: `10.${244 + node}.${at >> 8}.${at & 255}` });
  }
  return { services: all, edges, nodes, started: performance.now() / 1e3 };
}

const owner = (service) => (service ? { namespace: service.namespace, workload: service.name, service: service.name } : { namespace: "", workload: "", service: "" });
const port = (service) => ({ http: 8080, grpc: 9090, tcp: 5432 })[service.protocol];
const full = (service) => `${service.namespace}/${service.name}`;

/** Counters since the start, from the edge's rate and a slow wave; a client's calls are told by its own node's agent. */
function graph({ edges, nodes, started }, node) {
  const seconds = performance.now() / 1e3 - started + 60;
  const told = edges.map((edge) => {
    const mine = edge.caller ? edge.caller.pods.filter((pod) => pod.node === node).length / edge.caller.pods.length : 1 / nodes;
    const calls = mine * edge.rate * (seconds + Math.sin(seconds / 9 + edge.phase) * 3);
    const source = owner(edge.caller);
    const common = { source, destination: owner(edge.callee), service: full(edge.callee), protocol: edge.callee.protocol, security: "none" };
    if (edge.callee.protocol === "tcp") {
      return { ...common, requests: 0, failures: 0, codes: {}, buckets: [], request_bytes: Math.round(calls * 400), response_bytes: Math.round(calls * 900), opened: Math.round(calls / 50), open: Math.ceil(mine * 6) };
    }
    const requests = Math.round(calls);
    const failures = Math.round(calls * edge.fails);
    const buckets = BOUNDS_MS.map((bound, at) => Math.round(calls * (spread(bound, edge.ms) - (at > 0 ? spread(BOUNDS_MS[at - 1], edge.ms) : 0))));
    return { ...common, requests, failures, codes: { 200: requests - failures, ...(failures > 0 ? { 503: failures } : {}) }, buckets: [...buckets, 0], request_bytes: requests * 300, response_bytes: requests * 2100, opened: 0, open: 0 };
  });
  return { node: `node-${node + 1}`, bounds_ms: BOUNDS_MS, edges: told.filter((edge) => edge.requests + edge.open > 0) };
}

/** Share of calls at most `bound` long: log-logistic around `ms`. */
function spread(bound, ms) {
  return 1 / (1 + (ms / bound) ** 3);
}

/** Of a workload: without an identity, with a client certificate that should have been renewed; of gateways more. */
function certificates(pod, called) {
  const at = (days) => new Date(Date.UTC(2026, 10, 22) + days * 86_400_000).toISOString().replace(".000", "");
  const certificate = (name, days, standing) => ({ subject: `CN=${name}`, names: [`DNS:${name}`, `URI:spiffe://cluster.local/ns/${pod.service.namespace}/sa/${pod.service.name}`], issuer: "O=shop, CN=issuing CA", serial: "0a:5e:11:d3", not_before: at(days - 90), not_after: at(days), days_left: days, standing, key: "ECDSA P-256", fingerprint: "5e".repeat(32) });
  const row = (role, used, days, standing) => ({ role, used_for: [used], origin: `Secret ${pod.service.namespace}/${role}`, object: `DestinationRule ${pod.service.namespace}/tls`, field: "spec.trafficPolicy.tls", place: "mesh.d/rules.yaml:4", broken: false, note: "", certificate: certificate(used.split(":")[0], days, standing) });
  const none = { ...row("mesh-identity", pod.name, 1, "valid"), origin: "", object: "", field: "", place: "", note: "no mesh identity: connections inside the mesh are plain text", certificate: null };
  const host = (service) => `${service.name}.${service.namespace}.svc.cluster.local:${port(service)}`;
  const of = called.slice(0, 1).flatMap((s) => [row("client", host(s), 12, "expiring"), row("server-ca", host(s), 2000, "valid"), { ...row("client", host(s), 1, "valid"), broken: true, note: "has no usable certificate", certificate: null }]);
  return [none, ...of, ...(pod.service.layer === 0 ? [row("server", "shop.example:443", 61, "valid"), row("server", "old.example:443", -3, "expired")] : [])];
}

/** What one node's agent answers, by path. */
function answers(mesh, node) {
  const { services } = mesh;
  const pods = services.flatMap((service) => service.pods.map((pod) => ({ ...pod, service })));
  const uptime = () => Math.floor(performance.now() / 1e3 - mesh.started) + 3600;
  const kernel = { tier: "full", reason: "", abi: 3, sk_msg: { on: true, reason: "self-test passed, limited to HTTP/2 and gRPC ports" }, heartbeat_age_ms: 84, other_programs: [] };
  const own = pods.filter((pod) => pod.node === node);
  const outside = own.slice(0, 2).map((pod) => ({ pod: pod.name, reason: "the pod opts out: label sidecar.istio.io/inject is \"false\"" }));
  const isOut = new Set(outside.map(({ pod }) => pod));
  const status = () => ({
    version: "0.1.0", node: `node-${node + 1}`, pid: 4711, uptime_seconds: uptime(), draining: false, workers: 4,
    config: { sources: ["/etc/undermesh/mesh.d"], generation: 42, services: services.length, endpoints: pods.length, diagnostics: { errors: 0, warnings: 1, infos: 0 } },
    pods: { in_mesh: own.filter(({ name }) => !isOut.has(name)).map(({ name }) => name), outside, elsewhere: pods.length - own.length },
    kernel, connections: { open: own.length, by_worker: [1, 2, 3, 4].map(() => own.length >> 2), active_requests: 17 }, listeners: [], metrics_addr: "127.0.0.1:15090",
  });
  const health = (pod) => (pod.name.endsWith("web-7") ? "draining" : "ready");
  const endpoint = (pod) => ({
    service: `${full(pod.service)}:${port(pod.service)}`, subset: null, addr: `${pod.ip}:${port(pod.service)}`, workload: pod.name, locality: `eu/zone-${pod.node + 1}/`, weight: 1,
    health: health(pod), avoided: false, ejected: pod.name.endsWith("api-3"), ejected_ms: pod.name.endsWith("api-3") ? 21_000 : 0, ejections: 0, active: pod.ip.length % 4, requests: 1000 + pod.ip.length * 37, failures: pod.name.endsWith("api-3") ? 12 : 0, latency_ms: 3.25,
  });
  return {
    "/status": status,
    "/graph": () => graph(mesh, node),
    "/services": () => services.map((service) => ({
      name: full(service), host: `${service.name}.${service.namespace}.svc.cluster.local`, addresses: [`10.96.${service.at >> 8}.${service.at & 255}`], headless: false,
      ports: [{ port: port(service), name: service.protocol, protocol: service.protocol, policy: "peak-ewma", ready: service.pods.filter((pod) => health(pod) === "ready").length, draining: service.pods.filter((pod) => health(pod) !== "ready").length, not_ready: 0, balanced_by: service.protocol === "tcp" ? "kernel" : "agent" }],
    })),
    "/endpoints": () => pods.map(endpoint),
    "/workloads": () => pods.map((pod) => ({
      name: pod.name, owner: `Deployment/${pod.service.name}`, node: `node-${pod.node + 1}`, service_account: pod.service.name, addresses: [pod.ip],
      mesh: pod.node !== node ? "elsewhere" : isOut.has(pod.name) ? "outside" : "enrolled", reason: isOut.has(pod.name) ? outside[0].reason : "",
    })),
    "/kernel": () => ({
      status: kernel, adoption: "adopted", pods_cgroup: "/sys/fs/cgroup/kubepods", pin_dir: "/sys/fs/bpf/undermesh",
      hooks: ["connect4", "connect6", "getpeername4", "getpeername6", "sockops", "sk_msg"].map((name) => ({ name, state: "adopted", why: "" })),
      maps: [["PODS", own.length, 4096], ["SERVICES", services.length, 65_536], ["ENDPOINTS", pods.length, 131_072], ["FLOWS", 310 + (uptime() % 40), 73_728], ["COUNTERS", 24, null]].map(([name, entries, capacity]) => ({ name, entries, capacity, rows: [] })),
      counters: [["agent", 220_000 + uptime() * 31], ["endpoint", 51_000 + uptime() * 3], ["not-enrolled", 803], ["agent-dead-open", 2]].map(([reason, count]) => ({ reason, count })),
      services: services.filter(({ protocol }) => protocol === "tcp").slice(0, 12).map((service) => ({ service: `${full(service)}:5432`, opened: 120 + uptime(), closed: 100 + uptime(), bytes_sent: 40_000 * uptime(), bytes_received: 90_000 * uptime(), retransmits: service.at % 5 === 0 ? 3 : 0, srtt_us: 180 + service.at })),
    }),
    "/diagnostics": () => [{ severity: "warning", code: "UM0207", file: "mesh.d/shop.yaml:31", object: "VirtualService shop/api", field: "spec.http[2]", message: "is never reached: spec.http[1] takes everything", fix: "move it before spec.http[1], or delete it" }],
    "/connections": () => ({
      open: own.length, by_worker: [own.length], active_requests: 17,
      connections: own.slice(0, 900).map((pod, at) => ({ id: at, source: pod.name, client: `${pod.ip}:4${at}`, destination: `10.96.0.${at % 200}:8080`, protocol: at % 3 ? "http2" : "http1", age_seconds: uptime() - at, requests: 40 * at + uptime(), streams: at % 3, received_bytes: 8000 * at, sent_bytes: 90_000 * at })),
    }),
    "/traffic": () => {
      const { edges } = graph(mesh, node);
      const tally = (found) => ({ failures: found.reduce((all, e) => all + e.failures, 0), buckets: [...BOUNDS_MS, 0].map((_, at) => found.reduce((all, e) => all + (e.buckets[at] ?? 0), 0)) });
      const of = (end, service) => tally(edges.filter((e) => e[end].namespace === service.namespace && e[end].workload === service.name));
      return {
        node: `node-${node + 1}`, bounds_ms: BOUNDS_MS,
        routes: services.map((service) => ({ service: full(service), route: "default", requests: of("destination", service) })),
        pods: services.map((service) => ({ pod: service.pods[0]?.name ?? full(service), workload: service.name, asked: of("source", service), answered: of("destination", service), cpu_seconds: 1.5, memory_bytes: 23 << 10 })),
      };
    },
    "/seen": ({ from, what }) => {
      const pod = pods.find(({ name }) => name === from);
      if (!pod) return null;
      const called = mesh.edges.filter(({ caller }) => caller === pod.service).map(({ callee }) => callee);
      const reference = (service) => ({ object: `Service ${full(service)}`, field: "", place: "mesh.d/services.yaml:12" });
      if (what === "routes") return called.map((s) => ({ host: `${s.name}.${s.namespace}.svc.cluster.local`, port: port(s), name: "", matches: "everything", to: "the Service itself", object: "", field: "", place: "" }));
      if (what === "certificates") return certificates(pod, called);
      if (what === "services") return called.map((s) => ({ service: full(s), host: `${s.name}.${s.namespace}.svc.cluster.local`, port: port(s), protocol: s.protocol, addresses: [`10.96.0.${s.at}`], object: reference(s), rules: [], subsets: [] }));
      return called.flatMap((s) => s.pods.map((p) => ({ ...endpoint({ ...p, service: s }), address: `${p.ip}:${port(s)}`, priority: 0, second: false })));
    },
    "/explain": ({ from, url }) => {
      const service = services.find((s) => url.startsWith(`${s.name}.${s.namespace}`));
      if (!service) return null;
      const reference = { object: `VirtualService ${full(service)}`, field: "spec.http[1]", place: "mesh.d/routes.yaml:8" };
      const address = `10.96.0.${service.at & 255}:${port(service)}`;
      const { service: _, addr, requests, failures, subset, ejections, ...rest } = endpoint({ ...service.pods[0], service });
      return {
        request: { method: "GET", authority: url.split("/")[0], target: "/", headers: [], protocol: "http", address },
        source: { workload: from || null, owner: from ? "Deployment/web" : null, namespace: from.split("/")[0] || "default", labels: {}, mesh: from ? "enrolled" : "assumed", reason: "", gateway: null, sidecar: null },
        lookup: { found: "service", names: [url.split(":")[0]], service: `${full(service)}:${port(service)}`, protocol: service.protocol, object: { object: `Service ${full(service)}`, field: "", place: "mesh.d/services.yaml:12" }, taken_by: "agent", opaque: false, rules_of: null, shadowed: [] },
        near_misses: [{ name: "beta", ...reference, field: "spec.http[0].match[0]", why: "header end-user is missing, wanted exactly jason" }],
        rule: { name: "", ...reference, matches: "everything" }, filters: [{ kind: "fault-delay", text: "2 s", percent: 10 }], timeout_ms: 3000,
        retry: { attempts: 2, on: ["proven"], statuses: [], per_try_timeout_ms: null, backoff_ms: 25 },
        backends: [{ to: url.split("/")[0], subset: "v1", weight: 1, percent: 100, sent: null, policy: { rules: [], shadowed: [], balancer: "peak-ewma", hash_key: null, hash: null, settings: [] }, endpoints: [{ ...rest, address: addr, priority: 0, second: false }], chosen: null, refusal: null }],
        verdict: { outcome: "forwarded", status: null, flag: null, details: null, body: null, summary: `forwarded to ${url.split("/")[0]} subset v1, 1 endpoint` }, notes: [],
      };
    },
  };
}

/** What passes one node's agent, as a tap with this question shows it: a line now and then, until `response` closes. */
function tap({ edges }, node, { from = [], to = [], codes = [], max = Infinity }, response) {
  const named = (names, service) => names.length === 0 || (service && names.some((name) => name === full(service) || name === service.name));
  const wanted = edges.filter(({ caller, callee, fails }) => named(from, caller) && named(to, callee) && (codes.length === 0 || fails > 0));
  const peer = (service, n) => {
    const pod = service?.pods[n % service.pods.length];
    return pod ? { namespace: service.namespace, pod: pod.name.split("/")[1], workload: service.name, address: `${pod.ip}:${port(service)}` } : { namespace: "", pod: "", workload: "", address: "172.16.0.9:40112" };
  };
  let [sent, at] = [0, 0];
  const say = () => {
    if (wanted.length === 0) return;
    const edge = wanted[at++ % wanted.length];
    const [failed, tcp, grpc] = [codes.length > 0 || (edge.fails > 0 && at % 9 === 0), edge.callee.protocol === "tcp", edge.callee.protocol === "grpc"];
    const request = {
      time: new Date().toISOString(), source: peer(edge.caller, at), destination: peer(edge.callee, at), service: full(edge.callee), protocol: edge.callee.protocol,
      version: tcp ? "" : grpc ? "HTTP/2" : "HTTP/1.1", method: tcp ? "" : grpc ? "POST" : "GET", host: tcp ? "" : `${edge.callee.name}.${edge.callee.namespace}:${port(edge.callee)}`, path: tcp ? "" : `/${edge.callee.name}/${at}`,
      code: tcp ? null : failed && !grpc ? 503 : 200, grpc_status: grpc ? (failed ? 14 : 0) : null, flags: failed && !tcp ? ["UF"] : [], details: tcp ? "" : "via_upstream", route: "default",
      duration_ms: edge.ms, agent_ms: 0.05, upstream_ms: edge.ms - 0.05, request_bytes: 120, response_bytes: 2048, attempts: 1, connection: at, trace_id: null,
    };
    response.write(`${JSON.stringify({ request })}\n`);
    if (++sent >= max) response.end();
  };
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  response.flushHeaders();
  const timer = setInterval(say, 25);
  response.on("close", () => clearInterval(timer));
}

/** Listens as `<dir>/<node>/agent.sock` for every node; returns their run directories and `close`. */
export async function agents(mesh, dir) {
  const servers = [];
  const runDirs = [];
  for (let node = 0; node < mesh.nodes; node++) {
    const known = answers(mesh, node);
    const runDir = join(dir, `node-${node + 1}`);
    mkdirSync(runDir, { recursive: true });
    rmSync(join(runDir, "agent.sock"), { force: true });
    const server = http.createServer(async (request, response) => {
      let body = "";
      for await (const chunk of request) body += chunk;
      const path = request.url.split("?")[0];
      if (path === "/tap") return tap(mesh, node, JSON.parse(body), response);
      const said = known[path]?.(body ? JSON.parse(body) : undefined);
      const status = said === undefined ? 404 : said === null ? 400 : 200;
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(status === 200 ? said : { error: status === 404 ? `no such path ${path}` : "nobody is called so" }));
    });
    await new Promise((done) => server.listen(join(runDir, "agent.sock"), done));
    servers.push(server);
    runDirs.push(runDir);
  }
  return { runDirs, servers, close: () => servers.forEach((server) => (server.closeAllConnections(), server.close())) };
}
