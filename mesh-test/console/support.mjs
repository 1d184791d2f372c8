// Where things are, and the processes that tests need.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";

export const ROOT = join(import.meta.dirname, "../..");
export const PAGE = join(ROOT, "mesh-agent/src/cli/dashboard/page");
/** Screenshots, and the synthetic agents' sockets. */
export const OUT = join(ROOT, "target/console");
/** npm packages, as `cargo xtask peers --only browser` installs them. */
export const MODULES = join(ROOT, "target/peers/browser/node_modules");
export const AGENT = process.env.UNDERMESH_AGENT ?? join(ROOT, "target/fast/mesh-agent");

mkdirSync(OUT, { recursive: true });

/** The released layout library as the page bundles it: without its source map, its licence under our name for the file. */
export function releasedLayout() {
  const dir = join(MODULES, "@dagrejs/dagre");
  const { version, license } = JSON.parse(readFileSync(join(dir, "package.json"), "utf8"));
  const notice = `/*! @dagrejs/dagre ${version}, ${license}: see dagre.LICENSE.txt */`;
  const code = readFileSync(join(dir, "dist/dagre.esm.js"), "utf8").replace(/\/\*! For license information.*\*\//, notice).replace(/\/\/# sourceMappingURL=.*\n?/, "");
  return { code, licence: readFileSync(join(dir, "LICENSE"), "utf8") };
}

/** Debian's name first. */
function chromium() {
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const found = names.flatMap((name) => process.env.PATH.split(delimiter).map((dir) => join(dir, name))).find(existsSync);
  if (!found) throw new Error("no Chromium on PATH (Debian: chromium); `cargo xtask peers --only browser` installs it");
  return found;
}

export async function browser() {
  const puppeteer = createRequire(join(MODULES, "x.js"))("puppeteer-core");
  // Chromium's sandbox does not run as root, which tests may be.
  const args = process.getuid() === 0 ? ["--no-sandbox"] : [];
  return puppeteer.launch({ executablePath: chromium(), args: [...args, "--force-color-profile=srgb"], headless: true });
}

/** Runs mesh-agent to its end. */
export function run(args) {
  return new Promise((done) => {
    const child = spawn(AGENT, args);
    let [out, err] = ["", ""];
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    child.on("error", (error) => done({ code: -1, out, err: String(error) }));
    child.on("close", (code) => done({ code, out, err }));
  });
}

/** `mesh-agent dashboard` in front of these run directories: {url, stop}. */
export function dashboard(runDirs) {
  const child = spawn(AGENT, ["dashboard", "--no-open", "-o", "json", ...runDirs.map((dir) => `--run-dir=${dir}`)]);
  return new Promise((done, failed) => {
    let [out, err] = ["", ""];
    child.stderr.on("data", (data) => (err += data));
    child.on("error", failed);
    child.on("exit", (code) => failed(new Error(`dashboard ended with ${code}: ${err}`)));
    child.stdout.on("data", (data) => {
      out += data;
      if (!out.trimEnd().endsWith("}")) return;
      done({ ...JSON.parse(out), stop: () => child.kill() });
    });
  });
}

/** Waits until `check` holds, at most `seconds`; what it returned. */
export async function until(what, check, seconds = 30) {
  const end = performance.now() + seconds * 1e3;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (performance.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((next) => setTimeout(next, 50));
  }
}
