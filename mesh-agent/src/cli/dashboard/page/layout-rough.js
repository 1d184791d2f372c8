// A layout in a moment: callers before whom they call, each beside its own callers. Lines are straight, and may cross. Pure.

import { NODE_HEIGHT, nodeWidth } from "./sizes.js";

/** Sweeps over all ranks; a call in a circle would lift them for ever. */
const SWEEPS = 12;

/** As `layered` of layout.js. */
export function ranked(members, edges, direction) {
  if (members.length === 0) return { nodes: {}, edges: {}, width: 0, height: 0 };
  const rank = new Map(members.map(({ id }) => [id, 0]));
  const known = edges.filter(({ from, to }) => from !== to && rank.has(from) && rank.has(to));
  for (let sweep = 0, moved = true; moved && sweep < SWEEPS; sweep++) {
    moved = false;
    for (const { from, to } of known) {
      if (rank.get(to) > rank.get(from)) continue;
      rank.set(to, rank.get(from) + 1);
      moved = true;
    }
  }
  const ranks = [];
  for (const member of members) (ranks[rank.get(member.id)] ??= []).push(member);
  const callers = new Map(members.map(({ id }) => [id, []]));
  for (const { from, to } of known) callers.get(to).push(from);
  const [wide, across] = [Math.max(...members.map(({ name }) => nodeWidth(name))), direction === "LR"];
  const [step, beside] = across ? [wide + 96, NODE_HEIGHT + 20] : [NODE_HEIGHT + 64, wide + 20];
  const [placed, at] = [{}, new Map()];
  const mean = (id) => callers.get(id).reduce((sum, from) => sum + (at.get(from) ?? 0), 0) / Math.max(1, callers.get(id).length);
  // A circle may leave a rank empty.
  ranks.filter(Boolean).forEach((row, depth) => {
    const order = row.map((member) => ({ ...member, mean: mean(member.id) })).sort((a, b) => a.mean - b.mean || (a.id < b.id ? -1 : 1));
    order.forEach(({ id, name }, place) => {
      at.set(id, place);
      const [along, off] = [depth * step, place * beside];
      placed[id] = { x: (across ? along : off) + wide / 2, y: (across ? off : along) + NODE_HEIGHT / 2, width: nodeWidth(name), height: NODE_HEIGHT };
    });
  });
  const all = Object.values(placed);
  return { nodes: placed, edges: {}, width: Math.max(...all.map(({ x }) => x)) + wide / 2, height: Math.max(...all.map(({ y }) => y)) + NODE_HEIGHT / 2 };
}
