// The page's frame: which page is in view, how often agents are asked, theme and keys.

import { attribute, replace, text } from "./dom.js";
import { ExplainPage } from "./page-explain.js";
import { GraphPage } from "./page-graph.js";
import { NodesPage } from "./page-nodes.js";
import { ServicePage, ServicesPage } from "./page-services.js";
import { WorkloadPage } from "./page-workload.js";
import { WorkloadsPage } from "./page-workloads.js";
import { Store } from "./store.js";

const PAGES = { graph: GraphPage, services: ServicesPage, service: ServicePage, workloads: WorkloadsPage, workload: WorkloadPage, explain: ExplainPage, nodes: NodesPage };
const PARENTS = { service: "services", workload: "workloads" };
/** After `g`. */
const KEYS = { g: "graph", s: "services", w: "workloads", e: "explain", n: "nodes" };
const THEMES = { auto: "system", light: "light", dark: "dark" };

const store = new Store();
const main = document.querySelector("main");
const notice = document.querySelector("#notice");
let page = null;

/** `#/service/default%2Freviews?tab=x` → page, name, query. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [kind, name = ""] = path.split("/");
  return { kind: PAGES[kind] ? kind : "graph", name: safely(name), query: new URLSearchParams(query) };
}

function safely(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function open() {
  const { kind, name, query } = route();
  page?.close?.();
  page = new PAGES[kind](store, { name, query });
  document.title = `${page.title} · Undermesh`;
  for (const link of document.querySelectorAll("nav a")) {
    attribute(link, "aria-current", link.getAttribute("href") === `#/${PARENTS[kind] ?? kind}` ? "page" : null);
  }
  replace(main, page.element);
  main.dataset.page = kind;
  store.need(...page.needs);
  page.update();
}

function trouble() {
  const silent = store.agents.filter((agent) => agent.errors.status);
  const words = store.trouble ?? (silent.length > 0 ? silent.map((agent) => agent.errors.status).join(" · ") : "");
  notice.hidden = words === "";
  text(notice, words);
  const live = document.querySelector("#live");
  attribute(live, "data-state", words ? "bad" : store.interval > 0 ? "ok" : "idle");
}

function theme() {
  const button = document.querySelector("#theme");
  const names = Object.keys(THEMES);
  const apply = (name) => {
    attribute(document.documentElement, "data-theme", name === "auto" ? null : name);
    text(button.querySelector("span"), THEMES[name]);
    attribute(button, "aria-label", `Theme: ${THEMES[name]}`);
    button.dataset.now = name;
  };
  const stored = localStorage.getItem("undermesh-theme");
  apply(THEMES[stored] ? stored : "auto");
  button.addEventListener("click", () => {
    const next = names[(names.indexOf(button.dataset.now) + 1) % names.length];
    localStorage.setItem("undermesh-theme", next);
    apply(next);
  });
}

function keys() {
  const help = document.querySelector("#help");
  let gone = 0;
  document.querySelector("#keys").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !help.open) page?.escape?.();
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.timeStamp - gone < 1200 && KEYS[event.key]) location.hash = `#/${KEYS[event.key]}`;
    else if (event.key === "g") return (gone = event.timeStamp);
    else if (event.key === "/") page?.focusSearch?.();
    else if (event.key === "?") help.showModal();
    else return;
    gone = 0;
    event.preventDefault();
  });
}

function pace() {
  const select = document.querySelector("#pace");
  select.addEventListener("change", () => {
    store.setInterval(Number(select.value));
    trouble();
  });
  // In the address, so that a bookmark keeps it.
  const asked = new URLSearchParams(location.search).get("pace");
  if (asked && [...select.options].some(({ value }) => value === asked)) select.value = asked;
  store.interval = Number(select.value);
}

// The secret has become a cookie: out of the address bar, the history and screenshots with it.
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}
store.addEventListener("change", () => {
  trouble();
  page?.update();
});
window.addEventListener("hashchange", open);
theme();
keys();
pace();
open();
store.start();
