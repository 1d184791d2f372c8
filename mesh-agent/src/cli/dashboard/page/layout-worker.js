// The layout beside the page: panning and typing go on while a large mesh is laid out.

import { place } from "./layout.js";

const cache = new Map();

onmessage = ({ data }) => {
  postMessage({ turn: data.turn, placed: place(data, cache) });
};
