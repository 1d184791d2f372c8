// Numbers as people read them. Null: not known (yet).

const NONE = "–";

export function rate(perSecond) {
  return perSecond === null || perSecond === undefined ? NONE : `${short(perSecond)}/s`;
}

/** 0.04, 3.2, 45, 1.2k, 3.4M */
export function short(value) {
  if (value === 0) return "0";
  if (value < 0.995) return value.toFixed(2);
  if (value < 9.95) return value.toFixed(1);
  if (value < 999.5) return value.toFixed(0);
  for (const [unit, factor] of [["k", 1e3], ["M", 1e6], ["G", 1e9]]) {
    if (value < factor * 999.5) return `${(value / factor).toFixed(value < factor * 9.95 ? 1 : 0)}${unit}`;
  }
  return value.toExponential(1);
}

/** A share of one, rounded down: what is not 100 % must not say so. */
export function percent(share) {
  if (share === null || share === undefined) return NONE;
  const digits = share >= 0.9995 && share < 1 ? 2 : share >= 0.995 && share < 1 ? 1 : share === 1 || share === 0 ? 0 : 1;
  const factor = 10 ** (digits + 2);
  return `${(Math.floor(share * factor + 1e-9) / 10 ** digits).toFixed(digits)} %`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 0.995) return `${ms.toFixed(2)} ms`;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  return ms < 59_950 ? `${(ms / 1e3).toFixed(1)} s` : age(ms / 1e3);
}

export function age(seconds) {
  const parts = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = parts.findIndex(([size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [size, unit] = parts[at];
  const whole = `${Math.floor(seconds / size)} ${unit}`;
  if (at === parts.length - 1) return whole;
  const [next, smaller] = parts[at + 1];
  const rest = Math.floor((seconds % size) / next);
  return rest > 0 ? `${whole} ${rest} ${smaller}` : whole;
}

export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  for (const [unit, factor] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (count >= factor) return `${(count / factor).toFixed(1)} ${unit}`;
  }
  return `${Math.round(count)} B`;
}

export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

/** How a share of successes is judged: the thresholds of the edges' colours. */
export function health(traffic) {
  if (!traffic || !(traffic.rate > 0 || traffic.open > 0)) return "idle";
  if (traffic.success === null) return "ok";
  if (traffic.success >= 0.999) return "ok";
  return traffic.success >= 0.99 ? "warn" : "bad";
}
