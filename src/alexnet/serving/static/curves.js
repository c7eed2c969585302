// Lines in an SVG, with axes, a legend in words, and nothing that only colour tells.

import { h, short } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [420, 260, 46, 30, 12];
const DASHES = ["", "6 3", "2 3"];

function svg(tag, given, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}

export function curves(title, across, given) {
  const lines = given.filter((line) => line.points.length);
  const all = lines.flatMap((line) => line.points);
  if (!all.length) return h("figure", {}, h("figcaption", {}, `${title}: nothing yet`));
  const [low, high] = [0, Math.max(...all.map(([, y]) => y)) || 1];
  const [first, last] = [Math.min(0, ...all.map(([x]) => x)), Math.max(...all.map(([x]) => x)) || 1];
  const x = (value) => LEFT + ((value - first) / (last - first)) * (WIDTH - LEFT - 10);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curves", role: "img",
    "aria-label": `${title}: ${lines.map((line) => `${line.name} now ${short(line.points.at(-1)[1])}`).join(", ")}` });
  for (const at of ticks(low, high)) {
    drawing.append(svg("line", { x1: LEFT, x2: WIDTH - 10, y1: y(at), y2: y(at), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(at) + 4, "text-anchor": "end" }, short(at)));
  }
  for (const at of ticks(first, last)) {
    drawing.append(svg("text", { x: x(at), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, short(at)));
  }
  drawing.append(svg("text", { x: WIDTH - 10, y: HEIGHT - 2, "text-anchor": "end" }, across));
  lines.forEach((line, number) => {
    const points = line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    drawing.append(svg("polyline", { points, class: `line line${number}${line.faint ? " thin" : ""}`, "stroke-dasharray": DASHES[number] }));
    if (line.points.length === 1) drawing.append(svg("circle", { cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3, class: `dot line${number}` }));
  });
  const key = (number) => svg("svg", { viewBox: "0 0 30 8", class: "key", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 30, y1: 4, y2: 4, class: `line line${number}`, "stroke-dasharray": DASHES[number] }));
  return h("figure", { class: "chart" }, h("figcaption", {}, h("b", {}, title)), drawing,
    h("ul", { class: "legend" }, lines.map((line, number) => h("li", {}, key(number), ` ${line.name}, now ${short(line.points.at(-1)[1])}`))));
}
