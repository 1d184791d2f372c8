// Why does a request go where it goes?

import { h } from "./dom.js";
import { explanation } from "./explain-view.js";

export class ExplainPage {
  needs = [];
  title = "Explain";
  #ready = false;
  #store;
  #query;
  element = h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Explain a request")), h("p", { class: "lead" }, "Asks the data path's own functions, and sends nothing: which object and rule take the request, what is done to it, which endpoints may answer."));

  constructor(store, { query }) {
    this.#store = store;
    this.#query = query;
  }

  update() {
    if (this.#ready || this.#store.agents.length === 0) return;
    this.#ready = true;
    const [from, url, gateway] = ["from", "url", "gateway"].map((name) => this.#query.get(name));
    this.element.append(explanation(this.#store, { from, url, gateway }), ...(this.#store.agents.length > 1 ? [h("p", { class: "aside" }, `Asked of the first agent (${this.#store.agents[0].socket}); a workload's own page asks its node's.`)] : []));
  }
}

