// The layout beside the page: panning and typing go on while a large mesh is laid out.

import { place, rough } from "./layout.js";

const cache = new Map();

onmessage = ({ data }) => {
  const first = rough(data, cache);
  if (first) postMessage({ turn: data.turn, placed: first, final: false });
  postMessage({ turn: data.turn, placed: place(data, cache), final: true });
};
