// Elements without a framework. Text is only ever set as text, so that no name from the mesh becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: `h("a", { href, class: "x", onclick }, "text", child)`. Null children are left out. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets what differs only: a page that is redrawn five times a second must not make the browser lay it out as often. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function attribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** The keyboard stays where it is: on an element that is put in again, or on the one of the same `data-key` or link. */
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  if (focused) (focused.isConnected ? focused : twin(element, focused))?.focus({ preventScroll: true });
  return element;
}

function twin(element, gone) {
  const name = (each) => each.dataset.key ?? each.getAttribute("href");
  return [...element.querySelectorAll("[data-key], a[href]")].find((each) => name(each) === name(gone));
}

/** A box that says why there is nothing to see, and what to do about it. */
export function empty(title, ...lines) {
  return h("div", { class: "empty" }, h("h2", {}, title), ...lines.map((line) => (typeof line === "string" ? h("p", {}, line) : line)));
}

/** A command to copy by hand. */
export function command(line) {
  return h("pre", { class: "command" }, h("code", {}, line));
}

/** Label and value pairs. */
export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** A word with a state: its colour, and a mark for those who do not see colours. */
export function badge(word, state = "plain") {
  return h("span", { class: `badge ${state}` }, word);
}
