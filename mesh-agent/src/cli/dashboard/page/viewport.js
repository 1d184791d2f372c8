// Panning and zooming of one SVG: wheel, drag, pinch, keys. Calls back with every change.

const [LEAST, MOST] = [0.04, 2.5];
/** Pixels that the legend takes. */
const FOOT = 26;
/** Pixels that a finger may slip in a click. */
const SLIP = 5;

export class Viewport {
  x = 0;
  y = 0;
  scale = 1;
  /** The user moved it: what is drawn anew stays where they look. */
  touched = false;
  #svg;
  #changed;
  #pointers = new Map();
  #moved = 0;

  constructor(svg, changed) {
    this.#svg = svg;
    this.#changed = changed;
    svg.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    svg.addEventListener("pointerdown", (event) => this.#down(event));
    svg.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    // A drag that ends on a node is no click on it.
    svg.addEventListener("click", (event) => this.#moved > SLIP && event.stopPropagation(), true);
  }

  /** Shows all of `width` × `height`, never larger than life. */
  fit(width, height, most = 1.15) {
    const clientWidth = this.#svg.clientWidth;
    const clientHeight = this.#svg.clientHeight - FOOT;
    if (!(width > 0 && clientWidth > 0)) return;
    this.scale = clamp(Math.min(clientWidth / width, clientHeight / height, most));
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.touched = false;
    this.#changed(this);
  }

  /** Brings a point into the middle if it is out of sight. */
  reveal(x, y, margin = 60) {
    const { clientWidth, clientHeight } = this.#svg;
    const [left, top] = [x * this.scale + this.x, y * this.scale + this.y];
    if (left > margin && top > margin && left < clientWidth - margin && top < clientHeight - margin) return;
    this.pan(clientWidth / 2 - left, clientHeight / 2 - top);
  }

  /** At least this large, around a point. */
  enlarge(x, y, scale) {
    if (this.scale >= scale) return this.reveal(x, y);
    this.scale = clamp(scale);
    this.x = this.#svg.clientWidth / 2 - x * this.scale;
    this.y = this.#svg.clientHeight / 2 - y * this.scale;
    this.#touch();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#touch();
  }

  zoom(factor, x = this.#svg.clientWidth / 2, y = this.#svg.clientHeight / 2) {
    const scale = clamp(this.scale * factor);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.#touch();
  }

  #touch() {
    this.touched = true;
    this.#changed(this);
  }

  #wheel(event) {
    event.preventDefault();
    const [x, y] = this.#local(event);
    // Lines or pages where the wheel does not say pixels.
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    this.zoom(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0016)), x, y);
  }

  #down(event) {
    if (event.button !== 0) return;
    if (this.#pointers.size === 0) this.#moved = 0;
    this.#pointers.set(event.pointerId, this.#local(event));
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#local(event);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    this.#moved += Math.abs(dx) + Math.abs(dy);
    if (this.#moved > SLIP && !this.#svg.hasPointerCapture(event.pointerId)) this.#svg.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, now);
    if (other) {
      const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      this.zoom(spread(now) / Math.max(1, spread(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      this.pan(dx / 2, dy / 2);
    } else {
      this.pan(dx, dy);
    }
  }

  #local(event) {
    const { left, top } = this.#svg.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }
}

function clamp(scale) {
  return Math.min(MOST, Math.max(LEAST, scale));
}
