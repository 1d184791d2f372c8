// The agents: is the mesh in order on each node, what does its kernel hold, what is wrong in the configuration.

import { attribute, badge, empty, facts, h, replace, text } from "./dom.js";
import { age, bytes, count, duration, rate } from "./format.js";
import { Table } from "./table.js";

/** A beat older than this: the connect hooks take the agent for dead (they do after a second). */
const STALE_MS = 1000;

export class NodesPage {
  needs = ["kernel", "diagnostics"];
  title = "Nodes";
  #store;
  #nodes = new Map();
  #body = h("div", { class: "nodes" });
  #diagnostics = new Table({
    caption: "What is wrong with the configuration",
    key: ({ key }) => key,
    sort: ["severity", 1],
    columns: [
      { id: "object", label: "Object", cell: ({ object, file }) => ({ text: object || file || "–", title: file }) },
      { id: "severity", label: "Severity", cell: ({ severity }) => ({ text: severity, state: { error: "bad", warning: "warn" }[severity] }), sort: ({ severity }) => ["error", "warning", "info"].indexOf(severity) },
      { id: "code", label: "Code", cell: ({ code }) => code },
      { id: "message", label: "What", cell: ({ message, field }) => (field ? `${field}: ${message}` : message) },
      { id: "fix", label: "What to do", cell: ({ fix }) => fix || "–" },
      { id: "file", label: "Place", cell: ({ file }) => file || "–" },
    ],
  });
  #fine = h("p", { class: "aside", role: "status" });
  element;

  constructor(store) {
    this.#store = store;
    this.element = h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Nodes")), this.#body, h("h2", {}, "Configuration"), this.#fine, this.#diagnostics.element);
  }

  update() {
    for (const agent of this.#store.agents) {
      if (!this.#nodes.has(agent.at)) {
        this.#nodes.set(agent.at, new Node());
        this.#body.append(this.#nodes.get(agent.at).element);
      }
      this.#nodes.get(agent.at).update(agent);
    }
    const found = this.#store.rows("diagnostics");
    const rows = [...new Map((found ?? []).map((row) => [[row.code, row.object, row.field, row.message].join("|"), row])).entries()].map(([key, row]) => ({ ...row, key }));
    this.#diagnostics.element.hidden = rows.length === 0;
    this.#diagnostics.set(rows);
    text(this.#fine, found === null ? "" : rows.length === 0 ? "Nothing is wrong with it." : `${count(rows.length, "finding")}; \`mesh-agent analyze DIR\` finds the same before files are in force.`);
  }
}

class Node {
  #head = h("div");
  #pods = h("details", { class: "fold" });
  #hooks = table("Programs in the kernel", [["name", "Hook"], ["state", "State", ({ state }) => ({ text: state, state: state === "missing" ? "bad" : "ok" })], ["why", "Why"]]);
  #maps = new Table({
    caption: "Maps",
    key: ({ name }) => name,
    columns: [
      { id: "name", label: "Map", cell: ({ name }) => name },
      { id: "entries", label: "Entries", num: true, cell: ({ entries }) => entries.toLocaleString("en"), sort: ({ entries }) => entries },
      { id: "capacity", label: "Capacity", num: true, cell: ({ capacity }) => (capacity === null ? "–" : capacity.toLocaleString("en")), sort: ({ capacity }) => capacity },
      { id: "full", label: "Full", num: true, cell: full, sort: ({ entries, capacity }) => (capacity ? entries / capacity : null) },
    ],
  });
  #counters = new Table({
    caption: "Connections by what the hooks decided",
    key: ({ reason }) => reason,
    sort: ["count", -1],
    columns: [
      { id: "reason", label: "Reason", cell: ({ reason }) => reason },
      { id: "count", label: "Count", num: true, cell: ({ count }) => count.toLocaleString("en"), sort: ({ count }) => count },
      { id: "rate", label: "Now", num: true, cell: ({ now }) => rate(now), sort: ({ now }) => now },
    ],
  });
  #opaque = new Table({
    caption: "Opaque connections the kernel placed",
    key: ({ service }) => service,
    columns: [
      { id: "service", label: "Service", cell: ({ service }) => service },
      { id: "open", label: "Open", num: true, cell: ({ opened, closed }) => opened - closed, sort: ({ opened, closed }) => opened - closed },
      { id: "opened", label: "Opened", num: true, cell: ({ opened }) => opened.toLocaleString("en"), sort: ({ opened }) => opened },
      { id: "sent", label: "Sent", num: true, cell: ({ bytes_sent }) => bytes(bytes_sent), sort: ({ bytes_sent }) => bytes_sent },
      { id: "received", label: "Received", num: true, cell: ({ bytes_received }) => bytes(bytes_received), sort: ({ bytes_received }) => bytes_received },
      { id: "rtt", label: "RTT", num: true, cell: ({ srtt_us }) => (srtt_us > 0 ? duration(srtt_us / 1e3) : "–"), sort: ({ srtt_us }) => srtt_us },
      { id: "retransmits", label: "Retransmits", num: true, cell: ({ retransmits }) => ({ text: retransmits.toLocaleString("en"), state: retransmits > 0 ? "warn" : null }), sort: ({ retransmits }) => retransmits },
    ],
  });
  #kernel = h("details", { class: "fold" }, h("summary", {}, "Kernel: programs, maps, counters"), this.#hooks.element, this.#maps.element, this.#counters.element, this.#opaque.element);
  #before = null;
  element = h("section", { class: "node-card" }, this.#head, this.#pods, this.#kernel);

  constructor() {
    this.#kernel.open = true;
  }

  update(agent) {
    const { status, kernel } = agent.said;
    this.#pods.hidden = !status;
    this.#kernel.hidden = !kernel || kernel.hooks.length === 0;
    attribute(this.element, "data-state", agent.errors.status ? "bad" : null);
    if (agent.errors.status || !status) {
      const lines = agent.errors.status ? [agent.errors.status, "Is it running? `mesh-agent run` starts it; the page goes on by itself once it answers."] : [];
      return replace(this.#head, empty(agent.errors.status ? `No answer from ${agent.socket}` : "Asking the agent…", ...lines));
    }
    this.#drawHead(status, agent.socket);
    this.#drawPods(status.pods);
    if (kernel) this.#drawKernel(kernel);
  }

  #drawHead(status, socket) {
    const { kernel, config, connections, pods } = status;
    const found = config.diagnostics;
    const beat = kernel.heartbeat_age_ms;
    replace(
      this.#head,
      h("header", { class: "page-head" }, h("h2", {}, status.node), status.draining ? badge("draining", "warn") : badge("serving", "ok"), badge(`kernel ${kernel.tier}`, kernel.tier === "full" ? "ok" : "warn")),
      h("div", { class: "columns" },
        facts([
          ["up", age(status.uptime_seconds)],
          ["version", status.version],
          ["pods", `${pods.in_mesh.length} in the mesh, ${pods.outside.length} outside, ${pods.elsewhere} on other nodes`],
          ["connections", `${connections.open} open · ${count(connections.active_requests, "request")} under way`],
          ["workers", connections.by_worker.length > 1 ? `${status.workers} (connections ${connections.by_worker.join(" · ")})` : String(status.workers)],
          ["metrics", status.metrics_addr ? h("code", {}, `${status.metrics_addr}/metrics`) : "off"],
        ]),
        facts([
          ["kernel", kernel.reason ? `${kernel.tier}: ${kernel.reason}` : kernel.tier],
          ["heartbeat", beat === null ? null : h("span", { "data-state": beat > STALE_MS ? "bad" : "ok" }, `${beat} ms ago`)],
          ["redirection", `${kernel.sk_msg.on ? "on" : "off"}${kernel.sk_msg.reason ? `: ${kernel.sk_msg.reason}` : ""}`],
          ["also there", kernel.other_programs.map(({ hook, name }) => `${name} on ${hook}`).join(", ")],
          ["configuration", `generation ${config.generation} · ${count(config.services, "service")} · ${count(config.endpoints, "endpoint")}`],
          ["from", h("code", {}, config.sources.join(", "))],
          ["findings", found.errors + found.warnings > 0 ? h("span", { "data-state": found.errors > 0 ? "bad" : "warn" }, `${count(found.errors, "error")}, ${count(found.warnings, "warning")}`) : "none"],
          ["socket", h("code", {}, socket)],
        ])),
    );
  }

  #drawPods(pods) {
    const key = JSON.stringify(pods);
    if (this.#pods.dataset.key === key) return;
    this.#pods.dataset.key = key;
    const item = (pod, reason) => h("li", {}, h("code", {}, pod), reason ? h("span", { class: "warn" }, ` ${reason}`) : null);
    replace(
      this.#pods,
      h("summary", {}, `Pods of this node: ${pods.in_mesh.length} in the mesh, ${pods.outside.length} outside`),
      pods.outside.length > 0 ? h("h3", {}, "Outside, and why") : null,
      h("ul", { class: "pods" }, ...pods.outside.map(({ pod, reason }) => item(pod, reason))),
      pods.in_mesh.length > 0 ? h("h3", {}, "In the mesh") : null,
      h("ul", { class: "pods" }, ...pods.in_mesh.map((pod) => item(pod))),
    );
  }

  #drawKernel({ hooks, maps, counters, services }) {
    const now = performance.now() / 1e3;
    const known = new Map(this.#before?.counters.map(({ reason, count }) => [reason, count]));
    const seconds = this.#before ? now - this.#before.at : 0;
    this.#hooks.set(hooks.map((hook) => ({ ...hook, key: hook.name })));
    this.#maps.set(maps);
    this.#counters.set(counters.filter(({ count }) => count > 0).map((row) => ({ ...row, now: seconds > 0 ? Math.max(0, (row.count - (known.get(row.reason) ?? row.count)) / seconds) : null })));
    this.#opaque.set(services);
    this.#opaque.element.hidden = services.length === 0;
    // Rates over a few seconds: less would flicker.
    if (!this.#before || seconds >= 5) this.#before = { at: now, counters };
  }
}

function full({ entries, capacity }) {
  if (!capacity) return "–";
  const share = entries / capacity;
  return { text: `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`, state: share > 0.9 ? "bad" : share > 0.7 ? "warn" : null };
}

function table(caption, columns) {
  return new Table({ caption, key: ({ key }) => key, columns: columns.map(([id, label, cell]) => ({ id, label, cell: cell ?? ((row) => row[id] || "–") })) });
}
