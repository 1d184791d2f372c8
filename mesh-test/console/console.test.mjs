// The console as people use it: `mesh-agent dashboard` in front of synthetic agents, in a real Chromium.
// Screenshots of each page are left in target/console.

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { browser, dashboard, OUT, run, until } from "./support.mjs";
import { agents, mesh } from "./synthetic.mjs";

const SERVICES = 200;
const PODS = 2000;
/** Services and the one node that stands for all clients outside. */
const NODES = SERVICES + 1;
const PAGES = ["#/graph", "#/services", "#/service/shop%2Fapi", "#/workloads", "#/workload/shop%2Fapi", "#/workload/shop%2Fapi?tab=live", "#/workload/shop%2Fapi?tab=certificates", "#/explain", "#/nodes"];

let far, console_, chromium;
before(async () => {
  far = await agents(mesh({ services: SERVICES, pods: PODS }), join(OUT, "large"));
  console_ = await dashboard(far.runDirs);
  chromium = await browser();
});
// What a failed test left open would go on asking.
afterEach(() => Promise.all(chromium.browserContexts().filter((context) => context !== chromium.defaultBrowserContext()).map((context) => context.close())));
after(async () => {
  await chromium?.close();
  console_?.stop();
  far?.close();
});

/** A page of its own profile, opened with the address; what it complains about fails the test that closes it. */
async function open({ url = console_.url, hash = "", width = 1280, height = 800, scheme = "light", pace = 1000, motion = "no-preference" } = {}) {
  const context = await chromium.createBrowserContext();
  const page = await context.newPage();
  const complaints = [];
  // A loaded machine is no failure.
  page.setDefaultTimeout(120_000);
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.stack ?? String(error)));
  page.on("requestfailed", (request) => complaints.push(`${request.url()} failed`));
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: motion }]);
  await page.goto(`${url}&pace=${pace}${hash}`);
  return { page, complaints, close: async (expected = /^$/) => (await context.close(), assert.deepEqual(complaints.filter((text) => !expected.test(text)), [])) };
}

/** As many services are drawn as the counter says: the layout of the last change has come. */
const counted = (page) => page.waitForFunction(() => document.querySelector("svg.graph").dataset.drawn === document.querySelector(".counter").textContent.match(/^\d+/)?.[0]);
const appeared = (page, nodes = NODES) => page.waitForFunction((n) => Number(document.querySelector("svg.graph")?.dataset.drawn) === n, {}, nodes);
/** What follows a rough layout has come too: nothing moves any more. */
const drawn = async (page, nodes = NODES) => (await appeared(page, nodes), await page.waitForFunction(() => document.querySelector("svg.graph").dataset.layout === "final"));
const shot = (page, name, options) => page.screenshot({ path: join(OUT, `${name}.png`), ...options });
const words = (page, selector) => page.$eval(selector, (element) => element.textContent);
const waitFor = (page, selector, needle) => page.waitForFunction((s, n) => [...document.querySelectorAll(s)].some((e) => e.textContent.includes(n)), {}, selector, needle);

test("synthetic agents answer as agents do: mesh-agent's own subcommands read them", async () => {
  const pod = "shop/api-0";
  for (const args of [["status"], ["services"], ["endpoints"], ["workloads"], ["kernel"], ["connections"], ["diagnostics"], ["graph"], ["top", "services", "--total"], ["top", "pods", "--total"], ["tap", "--to", "shop/api", "--max", "3"], ["routes", pod], ["services", pod], ["endpoints", "--from", pod], ["certificates", pod], ["explain", "--from", pod, "web.shop.svc.cluster.local:8080/"]]) {
    const { code, out, err } = await run([...args, "-o", "json", "--run-dir", far.runDirs[0]]);
    assert.equal(code, 0, `${args.join(" ")}: ${err}`);
    assert.ok(out.length > 2, args.join(" "));
  }
});

test("200 services of 2,000 pods appear, and the page goes on answering at 5 updates a second", async () => {
  const { page, close } = await open({ pace: 200 });
  await appeared(page);
  const seen = await page.evaluate(() => performance.now());
  await drawn(page);
  const settled = await page.evaluate(() => performance.now());
  const bytes = await page.evaluate(() => performance.getEntriesByType("resource").reduce((sum, entry) => sum + entry.transferSize, 0));
  assert.equal((await page.$$("g.node")).length, NODES);
  assert.ok((await page.$$("g.edge")).length > SERVICES);
  assert.equal((await page.$$("g.group")).length, 13);
  await page.waitForFunction(() => [...document.querySelectorAll(".node .numbers")].filter((e) => e.textContent.includes("/s")).length > 100);
  const { gaps, updates } = await page.evaluate(async () => {
    const gaps = [];
    let [updates, shown] = [0, ""];
    for (let last = performance.now(), end = last + 5000; last < end; ) {
      const now = await new Promise(requestAnimationFrame);
      gaps.push(now - last);
      last = now;
      const text = document.querySelector(".panel .tile strong").textContent + document.querySelector("g.nodes").textContent;
      if (text !== shown) updates++;
      shown = text;
    }
    return { gaps: gaps.sort((a, b) => a - b), updates };
  });
  const [median, p99] = [gaps[Math.floor(gaps.length / 2)], gaps[Math.floor(gaps.length * 0.99)]];
  const moved = await until("a key moves the focus", async () => {
    const start = performance.now();
    await page.$eval("g.node[tabindex='0']", (node) => node.focus());
    await page.keyboard.press("ArrowRight");
    return (await page.evaluate(() => document.activeElement.matches("g.node"))) && performance.now() - start;
  });
  console.log(`# graph of ${NODES} nodes drawn after ${seen.toFixed(0)} ms, in its final layout after ${settled.toFixed(0)} ms (${(bytes / 1024).toFixed(0)} KiB); at 5 updates/s ${updates} redraws in 5 s, frames median ${median.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms; key to focus ${moved.toFixed(0)} ms`);
  // Generous: this machine may be building something else meanwhile.
  assert.ok(settled < 15_000 && median < 250 && updates >= 3, `${settled} ${median} ${updates}`);
  await shot(page, "graph");
  await close();
});

test("the secret leaves the address, and nobody enters without it", async () => {
  const { page, close } = await open();
  await drawn(page);
  assert.ok(!(await page.evaluate(() => location.href + document.referrer)).includes("token"));
  await page.reload();
  await drawn(page);
  await close();
  const context = await chromium.createBrowserContext();
  const stranger = await context.newPage();
  const answer = await stranger.goto(new URL(console_.url).origin);
  assert.equal(answer.status(), 401);
  assert.match(await answer.text(), /mesh-agent dashboard/);
  await context.close();
});

test("light and dark: by the system, by the button, and kept; all text is readable", async () => {
  const colours = {};
  for (const scheme of ["light", "dark"]) {
    const { page, close } = await open({ scheme });
    await drawn(page);
    colours[scheme] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const low = await page.evaluate(contrasts);
    assert.deepEqual(low, [], `${scheme}: contrast below 4.5 (WCAG 1.4.3)`);
    await shot(page, `graph-${scheme}`);
    await close();
  }
  const { page, close } = await open({ scheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await ground(), colours.light);
  await page.click("#theme");
  await page.click("#theme");
  assert.equal(await page.$eval("html", (html) => html.dataset.theme), "dark");
  assert.equal(await ground(), colours.dark);
  assert.notEqual(colours.dark, colours.light);
  await page.reload();
  assert.equal(await ground(), colours.dark);
  await close();
});

/** In the page: texts of less contrast than 4.5 : 1 with the ground they stand on. */
function contrasts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (colour) => {
    const [r, g, b] = [...rgb(colour)].map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const own = [...document.querySelectorAll("body *:not(svg *):not(option)")].filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return own.flatMap((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    return ratio < 4.5 ? [`${element.tagName}.${element.className} "${element.textContent.slice(0, 30)}" ${ratio.toFixed(2)}`] : [];
  });
}

test("every page: no sideways scrolling at 1280 and 390 px, every control has a name, nothing is complained about", async () => {
  for (const [width, height] of [[1280, 800], [390, 844]]) {
    for (const hash of PAGES) {
      const { page, close } = await open({ hash, width, height });
      await page.waitForFunction(() => document.querySelector("main").innerText.length > 80 && !document.querySelector("main").innerText.includes("Asking the agent"));
      if (hash === "#/graph") await drawn(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${hash} at ${width} px is ${overflow} px too wide`);
      const nameless = await page.evaluate(() => [...document.querySelectorAll("button, select, input, textarea, a[href], [role=button]")].filter((e) => e.checkVisibility() && !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.title)).map((e) => e.outerHTML));
      assert.deepEqual(nameless, [], `${hash}`);
      await shot(page, `${hash.replace(/[^a-z]+/g, "-").replace(/^-|-f?-?$/g, "")}-${width}`);
      await close();
    }
  }
});

test("the keyboard goes everywhere", async () => {
  const { page, close } = await open({ motion: "reduce" });
  await drawn(page);
  await page.keyboard.press("/");
  await page.keyboard.type("payments/api");
  // Each letter has a layout of its own.
  await page.waitForFunction((all) => Number(document.querySelector("svg.graph").dataset.drawn) < all, {}, NODES);
  await counted(page);
  await page.$eval("g.node[tabindex='0']", (node) => node.focus());
  const focus = () => page.evaluate(() => document.activeElement.dataset.id);
  const first = await focus();
  for (const key of ["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "ArrowRight"]) await page.keyboard.press(key);
  const last = await focus();
  assert.ok(last && last !== first, `${first} ${last}`);
  await page.keyboard.press("Enter");
  await waitFor(page, ".panel h1", last.split("/")[1]);
  assert.equal(await page.$eval(".panel", (panel) => panel.dataset.about), "node");
  await page.keyboard.press("Escape");
  await waitFor(page, ".panel h1", "Mesh");
  for (const [key, title] of [["s", "Services"], ["w", "Workloads"], ["e", "Explain"], ["n", "Nodes"], ["g", "Graph"]]) {
    // Two keys are one word within 1.2 s; a busy machine may need longer for them.
    await until(`g ${key} leads to ${title}`, async () => {
      await page.keyboard.press("g");
      await page.keyboard.press(key);
      return page.waitForFunction((t) => document.title.startsWith(t), { timeout: 2000 }, title).catch(() => null);
    });
    assert.equal(await page.$eval("nav [aria-current]", (a) => a.textContent), title);
  }
  await page.keyboard.press("?");
  assert.ok(await page.$eval("#help", (dialog) => dialog.open));
  await page.keyboard.press("Escape");
  assert.ok(!(await page.$eval("#help", (dialog) => dialog.open)));
  await close();
});

test("what is drawn anew leaves the keyboard where it is", async () => {
  const { page, close } = await open({ motion: "reduce" });
  await drawn(page);
  // Set by a script, which leaves the focus alone, as traffic does.
  const search = async (words) => {
    await page.$eval(".toolbar input[type=search]", (input, text) => ((input.value = text), input.dispatchEvent(new Event("input"))), words);
    await counted(page);
  };
  const focus = () => page.evaluate(() => document.activeElement.dataset.id);
  await search("payments/");
  await page.$eval("g.node[data-id='payments/api']", (node) => (node.dispatchEvent(new MouseEvent("click", { bubbles: true })), node.focus()));
  await page.keyboard.press("Escape");
  await search("");
  assert.equal(await focus(), "payments/api", "more is drawn");
  await search("shop/");
  const other = await focus();
  assert.ok(other && other !== "payments/api", `the node is gone: ${other}`);
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await focus(), other);

  await page.evaluate(() => (location.hash = "#/services"));
  await waitFor(page, "tbody th a", "shop/web");
  await page.evaluate(() => [...document.querySelectorAll("tbody th a")].find((a) => a.textContent === "shop/web").focus());
  const place = () => page.evaluate(() => [...document.querySelectorAll("tbody tr")].indexOf(document.activeElement.closest("tr")));
  const before = await place();
  assert.ok(before >= 0);
  await page.$eval("thead th:first-child button", (button) => button.click());
  await page.waitForFunction((at) => [...document.querySelectorAll("tbody th a")].findIndex((a) => a.textContent === "shop/web") !== at, {}, before);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "shop/web", "rows change places");

  await page.evaluate(() => (location.hash = "#/workload/shop%2Fapi"));
  await page.waitForSelector("select[aria-label=Pod]");
  await page.focus("select[aria-label=Pod]");
  const pod = () => page.$eval("select[aria-label=Pod]", ({ value }) => value);
  const chosen = await pod();
  await page.keyboard.press("ArrowDown");
  assert.notEqual(await pod(), chosen);
  assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), "Pod", "another pod");
  await page.$eval("[role=tab][aria-selected=true]", (tab) => tab.focus());
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.ariaSelected), "true", "another tab");
  await close();
});

test("the graph answers questions: a call, what fails, one namespace, workloads, a list", async () => {
  const { page, close } = await open();
  await drawn(page);
  await waitFor(page, ".panel h2", "Failing most");
  await page.click(".panel .calls button");
  await page.waitForFunction(() => document.querySelector(".panel").dataset.about === "edge");
  await waitFor(page, ".panel .codes code", "503");
  await shot(page, "graph-call");
  await page.click(".panel .close");
  const tick = (label) => page.evaluate((text) => [...document.querySelectorAll(".toolbar label.check")].find((l) => l.textContent === text).querySelector("input").click(), label);
  await tick("failing");
  await page.waitForFunction((all) => Number(document.querySelector("svg.graph").dataset.drawn) < all / 3, {}, NODES);
  await tick("failing");
  await tick("as a list");
  await page.waitForFunction(() => document.querySelectorAll(".stage tbody tr").length > 100);
  await tick("as a list");
  await page.click(".menu summary");
  await page.evaluate(() => [...document.querySelectorAll(".menu button")].find((b) => b.textContent === "none").click());
  await waitFor(page, ".stage-note h2", "Nothing fits the filter");
  await page.evaluate(() => [...document.querySelectorAll(".stage-note button")].at(-1).click());
  await drawn(page);
  await page.select(".toolbar select", "workload");
  await waitFor(page, ".counter", "workloads");
  await close();
});

test("a service, a workload and its pods, routes, endpoints, connections, explain", async () => {
  const { page, close } = await open({ hash: "#/services" });
  await waitFor(page, "tbody th a", "shop/web");
  assert.equal((await page.$$("tbody tr")).length, SERVICES);
  await page.type(".page-head input", "shop/w");
  await page.waitForFunction((all) => document.querySelectorAll("tbody tr").length < all / 10, {}, SERVICES);
  await page.evaluate(() => [...document.querySelectorAll("tbody th a")].find((a) => a.textContent === "shop/web").click());
  await waitFor(page, "h1", "shop/web");
  await waitFor(page, "caption", "Endpoints");
  await waitFor(page, "td", "draining");
  await shot(page, "service");
  await page.evaluate(() => (location.hash = "#/workload/shop%2Fapi"));
  await waitFor(page, "caption", "Calls");
  await shot(page, "workload");
  for (const [tab, needle] of [["routes", "the Service itself"], ["endpoints", "ejected"], ["services", "10.96.0."], ["connections", "http"]]) {
    await page.evaluate((id) => [...document.querySelectorAll("[role=tab]")].find((t) => t.textContent.toLowerCase() === id).click(), tab);
    if (tab !== "endpoints") await waitFor(page, "td, th", needle);
    else await waitFor(page, "caption", "Endpoints it may call");
    assert.equal(await page.$$eval("[role=tab][aria-selected=true]", (tabs) => tabs.length), 1);
  }
  await page.evaluate(() => (location.hash = "#/explain?from=shop/api-0&url=web.shop.svc.cluster.local:8080/"));
  await page.waitForSelector(".explain-form button");
  await page.click(".explain-form button");
  await page.waitForSelector("[data-verdict=forwarded]");
  assert.match(await words(page, ".steps"), /near|✗ VirtualService shop\/web/);
  await shot(page, "explain");
  await page.$eval(".explain-form [name=url]", (input) => (input.value = "nowhere/"));
  await page.click(".explain-form button");
  await waitFor(page, ".refusal", "nobody is called so");
  await close(/400/);
});

test("a workload's certificates: what expires, what is missing, and that there is no mesh identity", async () => {
  for (const [look, options] of [["", {}], ["-narrow-dark", { width: 390, height: 844, scheme: "dark" }]]) {
    const { page, close } = await open({ hash: "#/workload/shop%2Fapi?tab=certificates", ...options });
    await waitFor(page, ".certificates caption", "Certificates it shows");
    assert.match(await words(page, ".certificates > p"), /^No mesh identity: connections inside the mesh are plain text\. 3 certificates of 5 to look at\.$/);
    const rows = await page.$$eval(".certificates tbody tr", (all) => all.map((tr) => [...tr.children].map((cell) => [cell.textContent, cell.dataset.state])));
    const state = (role, text) => rows.find((row) => row[0][0] === role && row[1][0] === text);
    assert.deepEqual(rows.slice(0, 3).map(([, [text, state]]) => [text, state]), [["has no usable certificate", "bad"], ["expired", "bad"], ["expiring", "warn"]], "the most urgent first");
    assert.deepEqual(state("client", "expiring")[2], ["12", "warn"]);
    assert.ok(state("server", "valid").some(([text]) => text.includes("spiffe://cluster.local/ns/shop/sa/api")));
    for (const word of ["O=shop, CN=issuing CA", "0a:5e:11:d3", "ECDSA P-256", "Secret shop/server"]) assert.ok(state("server", "valid").some(([text]) => text === word), word);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0, "the table scrolls, the page does not");
    await shot(page, `workload-certificates${look}`);
    await close();
  }
});

test("a workload's requests as they pass: sent to it, sent by it, those that fail, and a pause", async () => {
  const { page, close } = await open({ hash: "#/workload/shop%2Fcache?tab=live" });
  const rows = () => page.$$eval(".live tbody tr", (all) => all.map((tr) => [...tr.children].map((cell) => cell.textContent)));
  const more = (than) => page.waitForFunction((n) => document.querySelectorAll(".live tbody tr").length > n, {}, than);
  await more(20);
  assert.ok((await rows()).every(([, , request]) => request.includes(" cache.shop:")), "sent to it");
  await shot(page, "workload-live");
  await page.select(".live select", "from");
  await more(5);
  assert.ok((await rows()).every(([, , request]) => !request.includes(" cache.shop:")), "sent by it");
  await page.click(".live button[aria-pressed]");
  await waitFor(page, ".live button[aria-pressed=true]", "Go on");
  const note = () => words(page, ".live [role=status]");
  // What came before it was pressed is drawn first.
  const held = await until("nothing more is added", async () => {
    const before = await note();
    await page.evaluate(() => new Promise((next) => setTimeout(next, 600)));
    return (await note()) === before && before;
  });
  await page.click(".live button[aria-pressed]");
  await page.waitForFunction((text) => document.querySelector(".live [role=status]").textContent !== text, {}, held);
  await page.evaluate(() => (location.hash = "#/workload/shop%2Fworker?tab=live"));
  await waitFor(page, "h1", "shop/worker");
  await page.click(".live input[type=checkbox]");
  await more(5);
  assert.ok((await rows()).every(([, , , answer]) => answer === "grpc 14 UF"), JSON.stringify((await rows())[0]));
  // Another tab ends the taps.
  await page.evaluate(() => [...document.querySelectorAll("[role=tab]")].find((t) => t.textContent === "Routes").click());
  await page.waitForFunction(() => !document.querySelector(".live"));
  await close(/ERR_ABORTED|failed$/);
});

test("both nodes are in one page; one that ends is named, and comes back by itself", async () => {
  const two = await agents(mesh({ services: 8, pods: 16, namespaces: 2 }), join(OUT, "two"));
  const own = await dashboard(two.runDirs);
  const { page, close } = await open({ url: own.url, hash: "#/nodes" });
  await waitFor(page, ".node-card h2", "node-2");
  await waitFor(page, ".node-card td, .node-card th", "not-enrolled");
  await waitFor(page, "td", "is never reached");
  await shot(page, "nodes", { fullPage: true });
  two.servers[1].close();
  two.servers[1].closeAllConnections();
  rmSync(join(two.runDirs[1], "agent.sock"), { force: true });
  await waitFor(page, "#notice", "node-2");
  await waitFor(page, ".node-card[data-state=bad]", "mesh-agent run");
  await shot(page, "nodes-one-gone");
  await new Promise((done) => two.servers[1].listen(join(two.runDirs[1], "agent.sock"), done));
  await page.waitForFunction(() => document.querySelector("#notice").hidden);
  own.stop();
  await waitFor(page, "#notice", "mesh-agent dashboard");
  two.close();
  await close(/502|ERR_CONNECTION|failed/);
});

test("an empty mesh says what to do", async () => {
  const none = await agents(mesh({ services: 0, pods: 0, nodes: 1 }), join(OUT, "empty"));
  const own = await dashboard(none.runDirs);
  const { page, close } = await open({ url: own.url });
  await waitFor(page, ".empty", "istio-injection=enabled");
  await shot(page, "graph-empty");
  for (const [hash, needle] of [["#/services", "No Services are configured"], ["#/workloads", "No pods are known"]]) {
    await page.evaluate((to) => (location.hash = to), hash);
    await waitFor(page, ".empty h2", needle);
  }
  await close();
  own.stop();
  none.close();
});
