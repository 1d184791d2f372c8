// Makes the README's pictures anew, of a synthetic mesh: `node mesh-test/console/screenshots.mjs`.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { browser, dashboard, OUT, ROOT } from "./support.mjs";
import { agents, mesh } from "./synthetic.mjs";

/** Name, page, dark, and what to press once it is there. */
const PICTURES = [
  ["graph", "#/graph", false, null],
  ["graph-dark", "#/graph?select=payments%2Fcache", true, null],
  ["service", "#/service/shop%2Fcache", false, null],
  ["workload", "#/workload/shop%2Fweb", true, null],
  ["explain", "#/explain?from=shop/api-0&url=web.shop.svc.cluster.local:8080/", false, ".explain-form button"],
  ["nodes", "#/nodes", true, null],
];
const docs = join(ROOT, "docs/console");

mkdirSync(docs, { recursive: true });
const far = await agents(mesh({ services: 22, pods: 88, namespaces: 3 }), join(OUT, "pictures"));
const own = await dashboard(far.runDirs);
const chromium = await browser();
for (const [name, hash, dark, press] of PICTURES) {
  const context = await chromium.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({ width: 1280, height: 760 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(`${own.url}${hash}`);
  // Long enough for the lines of the last seconds.
  await new Promise((next) => setTimeout(next, 9_000));
  if (press) await page.click(press);
  await new Promise((next) => setTimeout(next, 1000));
  await page.screenshot({ path: join(docs, `${name}.webp`), type: "webp", quality: 82 });
  await context.close();
}
await chromium.close();
own.stop();
far.close();
