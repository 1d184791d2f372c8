// What the agents said last. One loop polls what the page in view needs; pages draw from here and ask nobody.

import { WINDOW, Window } from "./rates.js";
import { gather } from "./model.js";

/** Shortest time between two questions of a kind, milliseconds; others are asked with every turn. */
const AT_LEAST = { services: 3000, workloads: 3000, endpoints: 2000, kernel: 1000, status: 1000, diagnostics: 5000 };
/** Points kept of each series, one a second. */
const HISTORY = 180;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function json(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Refused(0, "the console itself has ended: start `mesh-agent dashboard` again and open the address it prints");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.error ?? `answered ${response.status}`);
  return body;
}

export class Store extends EventTarget {
  agents = [];
  /** What keeps the whole console from working. */
  trouble = null;
  interval = 1000;
  edges = [];
  /** Name → points {at, rate, success, p95} of nodes and services. */
  history = new Map();
  #needs = new Set();
  #timer = null;
  #turn = 0;

  async start() {
    try {
      const sockets = await json("/api/agents");
      this.agents = sockets.map((socket, at) => ({ at, socket, said: {}, errors: {}, asked: {}, window: new Window(), traffic: new Map() }));
      this.trouble = null;
    } catch (error) {
      this.trouble = error.message;
      this.#changed();
      this.#timer = setTimeout(() => this.start(), 2000);
      return;
    }
    this.#poll();
  }

  /** What the page in view needs; asked at once. */
  need(...kinds) {
    this.#needs = new Set(["status", ...kinds]);
    if (this.agents.length > 0) this.#poll();
  }

  setInterval(milliseconds) {
    this.interval = milliseconds;
    this.#poll();
  }

  /** One question to one agent, now: `explain`, `seen`. */
  ask(agent, kind, question) {
    return json(`/api/agents/${agent.at}/${kind}`, { method: "POST", body: JSON.stringify(question) });
  }

  /** A question whose answer goes on, a JSON object a line; until it ends, or `signal` does. */
  async watch(agent, kind, question, signal, opened, each) {
    const response = await fetch(`/api/agents/${agent.at}/${kind}`, { method: "POST", body: JSON.stringify(question), cache: "no-store", signal });
    if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).error ?? `answered ${response.status}`);
    opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) each(JSON.parse(line));
    }
  }

  /** All agents' rows of a kind, each with its agent; null while none has answered. */
  rows(kind) {
    const answers = this.agents.filter((agent) => agent.said[kind]);
    return answers.length === 0 ? null : answers.flatMap((agent) => agent.said[kind].map((row) => ({ ...row, agent })));
  }

  /** Why a kind has no answer of any agent. */
  error(kind) {
    const failed = this.agents.filter((agent) => agent.errors[kind]);
    return failed.length > 0 && failed.length === this.agents.length ? failed[0].errors[kind] : null;
  }

  async #poll() {
    clearTimeout(this.#timer);
    const turn = ++this.#turn;
    const now = performance.now();
    const due = (agent, kind) => now - (agent.asked[kind] ?? -1e9) >= (AT_LEAST[kind] ?? 0) * 0.9;
    const asked = this.agents.flatMap((agent) =>
      [...this.#needs].filter((kind) => due(agent, kind)).map((kind) => this.#ask(agent, kind)),
    );
    await Promise.all(asked);
    if (asked.length > 0) {
      this.edges = gather(this.agents.filter((agent) => !agent.errors.graph).map((agent) => agent.traffic));
      this.#changed();
    }
    // A hidden page asks nothing; a newer turn has its own timer.
    if (turn === this.#turn && this.interval > 0) {
      const next = () => (document.hidden ? (this.#timer = setTimeout(next, 500)) : this.#poll());
      this.#timer = setTimeout(next, this.interval);
    }
  }

  async #ask(agent, kind) {
    agent.asked[kind] = performance.now();
    try {
      const said = await json(`/api/agents/${agent.at}/${kind}`);
      agent.said[kind] = said;
      delete agent.errors[kind];
      if (kind === "graph") agent.traffic = agent.window.add(performance.now() / 1e3, said);
      this.trouble = null;
    } catch (error) {
      agent.errors[kind] = error.message;
      if (error.status === 0 || error.status === 401) this.trouble = error.message;
    }
  }

  /** Adds a point to a series, at most one a second, and returns all of them. */
  remember(name, traffic) {
    const points = this.history.get(name) ?? [];
    const at = performance.now() / 1e3;
    if (traffic && traffic.rate !== null && at - (points.at(-1)?.at ?? -1) >= 1) {
      points.push({ at, rate: traffic.rate, success: traffic.success, p95: traffic.p95 });
      if (points.length > HISTORY) points.shift();
      this.history.set(name, points);
    }
    return points;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

export { WINDOW };
