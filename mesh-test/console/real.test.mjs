// The console in front of a real agent: what it counts is what a client sent.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { AGENT, browser, dashboard, OUT, run, until } from "./support.mjs";

const PATH = [...Array(40).keys()].map((n) => (n % 4 === 3 ? "/fail" : "/"));

const objects = (port) => `
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.0.10, selector: { app: web }, ports: [{ name: http, port: 80, targetPort: ${port} }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-v1-abc, namespace: shop, uid: u1, labels: { app: web, version: v1 } }
spec: { nodeName: n1 }
status: { phase: Running, podIP: 127.0.0.1, conditions: [{ type: Ready, status: "True" }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: http, port: ${port}, protocol: TCP }]
endpoints: [{ addresses: ["127.0.0.1"], conditions: { ready: true }, targetRef: { kind: Pod, name: web-v1-abc, namespace: shop } }]
`;

const listen = (server) => new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));

async function freePort() {
  const server = http.createServer();
  const port = await listen(server);
  await new Promise((done) => server.close(done));
  return port;
}

function get(port, path, agent) {
  return new Promise((done, failed) => {
    http.get({ host: "127.0.0.1", port, path, agent, headers: { host: "web.shop" } }, (answer) => answer.resume().on("end", () => done(answer.statusCode))).on("error", failed);
  });
}

test("requests through an agent appear in its graph, counted exactly, with its Service and its explanation", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "console-"));
  mkdirSync(join(dir, "config"));
  const web = http.createServer((request, response) => (request.resume(), response.writeHead(request.url === "/fail" ? 503 : 200).end("hello")));
  writeFileSync(join(dir, "config/mesh.yaml"), objects(await listen(web)));
  const [port, runDir] = [await freePort(), join(dir, "run")];
  const agent = spawn(AGENT, ["run", "--no-kernel", "--config", join(dir, "config"), "--node", "n1", "--run-dir", runDir, "--listen", `127.0.0.1:${port}=shop/web:80`, "--metrics-addr", "off", "--workers", "1"], { stdio: "ignore" });
  // Whatever fails: what still runs would keep the tests from ending.
  const gone = new Promise((done) => agent.on("exit", done));
  t.after(async () => {
    agent.kill();
    await gone;
    web.close();
    web.closeAllConnections();
    rmSync(dir, { recursive: true, force: true });
  });
  await until("the agent serves", async () => (await run(["status", "--run-dir", runDir])).code === 0);
  const own = await dashboard([runDir]);
  t.after(() => own.stop());
  const chromium = await browser();
  t.after(() => chromium.close());
  const page = await chromium.newPage();
  // A loaded machine is no failure.
  page.setDefaultTimeout(120_000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => kept.destroy());

  await page.goto(own.url);
  await page.waitForFunction(() => document.querySelector(".empty h2")?.textContent === "No calls yet");
  const codes = [];
  for (const path of PATH) codes.push(await get(port, path, kept));
  assert.deepEqual([codes.filter((code) => code === 200).length, codes.filter((code) => code === 503).length], [30, 10]);
  await page.waitForFunction(() => Number(document.querySelector("svg.graph")?.dataset.drawn) === 2);
  const names = await page.$$eval("g.node .name", (all) => all.map((name) => name.textContent).sort());
  assert.deepEqual(names, ["other clients", "web"]);
  const { edges } = await page.evaluate(async () => (await fetch("/api/agents/0/graph")).json());
  assert.equal(edges.length, 1);
  const [edge] = edges;
  assert.deepEqual([edge.service, edge.protocol, edge.requests, edge.failures], ["shop/web", "http", 40, 10]);
  assert.deepEqual(edge.codes, { 200: 30, 503: 10 });
  assert.equal(edge.buckets.reduce((a, b) => a + b), 40);
  assert.equal(edge.destination.namespace, "shop");

  // Rates need a second answer with more in it.
  let sending = true;
  t.after(() => (sending = false));
  const more = (async () => {
    for (; sending; await new Promise((done) => setTimeout(done, 50))) await get(port, "/", kept).catch(() => {});
  })();
  await page.waitForFunction(() => [...document.querySelectorAll(".node .numbers")].some((e) => /^[\d.]+\/s/.test(e.textContent)));
  await page.screenshot({ path: join(OUT, "real-graph.png") });
  await page.evaluate(() => (location.hash = "#/service/shop%2Fweb"));
  await page.waitForFunction(() => document.body.textContent.includes("web-v1-abc") && document.body.textContent.includes("ready"));
  await page.evaluate(() => (location.hash = "#/explain?url=web.shop/"));
  await page.waitForSelector(".explain-form button");
  await page.click(".explain-form button");
  await page.waitForSelector("[data-verdict=forwarded]");
  await page.screenshot({ path: join(OUT, "real-explain.png") });
  await page.evaluate(() => (location.hash = "#/nodes"));
  await page.waitForFunction(() => document.querySelector(".node-card h2")?.textContent === "n1");
  // To the last answer: none of them may be seen below.
  sending = false;
  await more;

  // Its certificates: nothing asks for one, and there is no identity that nobody has.
  await page.evaluate(() => (location.hash = "#/workload/shop%2Fweb-v1-abc?tab=certificates"));
  await page.waitForFunction(() => document.querySelector(".certificates > p")?.textContent.startsWith("No mesh identity"));
  await page.waitForFunction(() => document.querySelector(".certificates .table").hidden);

  // Live: what is sent while it is looked at, and what fails of it.
  await page.evaluate(() => (location.hash = "#/workload/shop%2Fweb-v1-abc?tab=live"));
  await page.waitForSelector(".live[data-open]");
  for (const path of PATH) await get(port, path, kept);
  const rows = (wanted) => page.waitForFunction((n) => document.querySelectorAll(".live tbody tr").length === n, {}, wanted);
  await rows(40);
  const answers = await page.$$eval(".live tbody td:nth-child(4)", (all) => all.map((cell) => cell.textContent));
  assert.deepEqual([answers.filter((text) => text === "200").length, answers.filter((text) => text === "503").length], [30, 10]);
  await page.click(".live input[type=checkbox]");
  await page.waitForSelector(".live[data-open]");
  for (const path of PATH) await get(port, path, kept);
  await rows(10);
  await page.screenshot({ path: join(OUT, "real-live.png") });
  assert.deepEqual(complaints, []);
});
