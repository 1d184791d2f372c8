// A table that sorts, and that keeps its rows' elements while their values change.

import { attribute, h, replace, text } from "./dom.js";

/** Rows drawn before somebody asks for more. */
const SHOWN = 200;

/**
 * `columns`: [{id, label, num, hint, cell: row → string | {text, href, state, title}, sort: row → string | number}].
 * The first column heads its row. `quiet`: the caption is for those who do not see the heading above.
 */
export class Table {
  #columns;
  #key;
  #sort;
  #rows = [];
  #drawn = new Map();
  #shown = SHOWN;
  #body = h("tbody");
  #heads;
  #more;
  element;

  constructor({ caption, quiet, columns, key, sort }) {
    this.#columns = columns;
    this.#key = key;
    this.#sort = sort ?? [columns[0].id, 1];
    this.#heads = new Map(columns.map((column) => [column.id, this.#head(column)]));
    this.#more = h("button", { class: "more", type: "button", onclick: () => ((this.#shown += 5 * SHOWN), this.#draw()) });
    const table = h("table", {}, h("caption", { class: quiet ? "quiet" : null }, caption), h("thead", {}, h("tr", {}, ...this.#heads.values())), this.#body);
    this.element = h("div", { class: "table", tabindex: 0, role: "region", "aria-label": caption }, table, this.#more);
  }

  set(rows) {
    this.#rows = rows;
    this.#draw();
  }

  #head({ id, label, num, hint }) {
    const turn = () => {
      const [sorted, way] = this.#sort;
      this.#sort = sorted === id ? [id, -way] : [id, num ? -1 : 1];
      this.#draw();
    };
    return h("th", { scope: "col", class: num ? "num" : null, title: hint }, h("button", { type: "button", onclick: turn }, label));
  }

  #draw() {
    const [sorted, way] = this.#sort;
    for (const [id, head] of this.#heads) attribute(head, "aria-sort", id === sorted ? (way > 0 ? "ascending" : "descending") : null);
    const column = this.#columns.find(({ id }) => id === sorted);
    const value = column.sort ?? ((row) => plain(column.cell(row)).text);
    const rows = this.#rows.map((row) => [value(row), this.#key(row), row]).sort((a, b) => compare(a[0], b[0], way) || compare(a[1], b[1], 1));
    const wanted = rows.slice(0, this.#shown);
    const drawn = new Map(wanted.map(([, key, row]) => [key, this.#row(this.#drawn.get(key), row)]));
    const order = [...drawn.values()];
    if (order.length !== this.#body.children.length || order.some((tr, at) => this.#body.children[at] !== tr)) {
      replace(this.#body, ...order);
    }
    this.#drawn = drawn;
    const hidden = rows.length - wanted.length;
    this.#more.hidden = hidden <= 0;
    text(this.#more, `show ${hidden} more`);
  }

  #row(known, row) {
    const tr = known ?? h("tr", {}, ...this.#columns.map(({ num }, at) => h(at === 0 ? "th" : "td", { class: num ? "num" : null, scope: at === 0 ? "row" : null })));
    this.#columns.forEach((column, at) => cell(tr.children[at], plain(column.cell(row))));
    return tr;
  }
}

function cell(element, { text: words, href, state, title }) {
  attribute(element, "data-state", state ?? null);
  attribute(element, "title", title ?? null);
  if (!href) return text(element, words);
  if (element.firstElementChild?.tagName !== "A") element.replaceChildren(h("a", {}));
  attribute(element.firstElementChild, "href", href);
  text(element.firstElementChild, words);
}

function plain(value) {
  return value !== null && typeof value === "object" ? value : { text: String(value ?? "–") };
}

/** What is not known comes last, whichever way. */
function compare(a, b, way) {
  const [none, other] = [a === null || a === undefined, b === null || b === undefined];
  if (none || other) return none - other;
  if (a === b) return 0;
  return (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b) * way;
}
