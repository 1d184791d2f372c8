// Requests of one workload as they pass: a tap of each agent, open while the tab is in view.

import { attribute, h, text } from "./dom.js";
import { bytes, count, duration } from "./format.js";
import { link } from "./parts.js";
import { Table } from "./table.js";

/** Requests that are kept in view, the last ones. */
const KEPT = 200;
/** Between two drawings, and before a tap that broke is opened again, milliseconds. */
const [PACE, AGAIN] = [200, 2000];
const FAILURES = ["5xx", "0", "grpc:internal", "grpc:unavailable", "grpc:data_loss"];

export class Live {
  #store;
  #name;
  #rows = [];
  #seen = 0;
  #dropped = new Map();
  #ended = null;
  #timer = null;
  #errors = new Map();
  #way = h("select", { onchange: () => this.#restart() }, h("option", { value: "to" }, "sent to it"), h("option", { value: "from" }, "sent by it"));
  #failing = h("input", { type: "checkbox", onchange: () => this.#restart() });
  #hold = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#pause() }, "Pause");
  #note = h("p", { class: "aside", role: "status" });
  #table = new Table({
    caption: "Requests as they pass, the latest first",
    key: ({ key }) => key,
    sort: ["time", -1],
    columns: [
      { id: "time", label: "Began", cell: ({ time }) => time.slice(11, 23), sort: ({ time, key }) => `${time} ${String(key).padStart(12, "0")}` },
      { id: "peer", label: "Peer", cell: ({ peer, href }) => ({ text: peer, href }) },
      { id: "request", label: "Request", cell: ({ request }) => ({ text: request, title: request }) },
      { id: "answer", label: "Answer", cell: ({ answer }) => answer },
      { id: "took", label: "Took", num: true, cell: ({ duration_ms }) => duration(duration_ms), sort: ({ duration_ms }) => duration_ms },
      { id: "sent", label: "Answered", num: true, hint: "bytes of the answer's body", cell: ({ response_bytes }) => bytes(response_bytes), sort: ({ response_bytes }) => response_bytes },
      { id: "attempts", label: "Attempts", num: true, cell: ({ attempts }) => attempts, sort: ({ attempts }) => attempts },
    ],
  });
  element;

  constructor(store, name) {
    [this.#store, this.#name] = [store, name];
    const tools = h("div", { class: "row" }, h("label", { class: "field" }, "Requests", this.#way), h("label", { class: "check" }, this.#failing, "failing"), this.#hold);
    this.element = h("div", { class: "live" }, tools, this.#note, this.#table.element);
  }

  /** Opens the taps, unless they are open. */
  start() {
    if (this.#ended) return;
    const [ended, way] = [new AbortController(), this.#way.value];
    this.#ended = ended;
    const question = { [way]: [this.#name], ...(this.#failing.checked ? { codes: FAILURES } : {}) };
    for (const agent of this.#store.agents) this.#tap(agent, question, way, ended.signal);
    this.#timer = setInterval(() => this.#draw(), PACE);
    this.#draw();
  }

  stop() {
    this.#ended?.abort();
    this.#ended = null;
    clearInterval(this.#timer);
    attribute(this.element, "data-open", null);
  }

  #restart() {
    this.stop();
    [this.#rows, this.#seen] = [[], 0];
    this.#dropped.clear();
    this.start();
  }

  #pause() {
    const held = this.#hold.getAttribute("aria-pressed") === "true";
    attribute(this.#hold, "aria-pressed", String(!held));
    text(this.#hold, held ? "Pause" : "Go on");
  }

  async #tap(agent, question, way, signal) {
    while (!signal.aborted) {
      try {
        const opened = () => {
          this.#errors.delete(agent.at);
          attribute(this.element, "data-open", "");
        };
        await this.#store.watch(agent, "tap", question, signal, opened, (line) => {
          if (line.dropped) this.#dropped.set(agent.at, line.dropped);
          else this.#add(line.request, way);
        });
        this.#errors.set(agent.at, "the agent has ended");
      } catch (error) {
        if (!signal.aborted) this.#errors.set(agent.at, error.message);
      }
      if (!signal.aborted) await new Promise((next) => setTimeout(next, AGAIN));
    }
  }

  #add(request, way) {
    if (!request || this.#hold.getAttribute("aria-pressed") === "true") return;
    const peer = way === "to" ? request.source : request.destination;
    const workload = peer.workload && `${peer.namespace}/${peer.workload}`;
    this.#rows.push({
      ...request,
      key: this.#seen++,
      peer: peer.pod ? `${peer.namespace}/${peer.pod}` : way === "from" && request.service ? request.service : (peer.address ?? "–"),
      href: workload ? link.workload(workload) : null,
      request: request.protocol === "tcp" ? "connection" : `${request.method} ${request.host}${request.path}`,
      answer: answer(request),
    });
    if (this.#rows.length > 2 * KEPT) this.#rows.splice(0, this.#rows.length - KEPT);
  }

  #draw() {
    this.#table.set(this.#rows.slice(-KEPT));
    this.#table.element.hidden = this.#rows.length === 0;
    const dropped = [...this.#dropped.values()].reduce((a, b) => a + b, 0);
    const errors = [...this.#errors].map(([at, error]) => `${this.#store.agents[at].said.status?.node ?? "an agent"}: ${error}`);
    const seen = this.#seen > 0 ? `${count(this.#seen, "request")} since the tab was opened` : "Waiting for requests; those that begin from now on are shown when they end";
    text(this.#note, [seen, dropped > 0 ? `${dropped.toLocaleString("en")} more came faster than they could be shown` : "", ...errors].filter(Boolean).join(" · "));
  }
}

function answer({ protocol, code, grpc_status: status, flags }) {
  const why = flags.length > 0 ? ` ${flags.join(",")}` : "";
  if (protocol === "tcp") return { text: why ? why.trim() : "closed", state: why ? "bad" : "ok" };
  if (code === null) return { text: `none${why}`, state: "bad" };
  if (status > 0) return { text: `grpc ${status}${why}`, state: [13, 14, 15].includes(status) ? "bad" : "warn" };
  return { text: `${code}${why}`, state: code >= 500 ? "bad" : code >= 400 ? "warn" : "ok" };
}
