// How large nodes are: the layout and the drawing must agree.

export const NODE_HEIGHT = 40;
/** Of names in the page's font, 12.5 px: nodes are as wide as their names. */
export const CHARACTER = 7.1;

export function nodeWidth(name) {
  return Math.round(Math.min(210, Math.max(112, name.length * CHARACTER + 30)));
}

/** A name cut to the width of its node. */
export function fitted(name) {
  const most = Math.floor((nodeWidth(name) - 24) / CHARACTER);
  return name.length <= most + 1 ? name : `${name.slice(0, most)}…`;
}
