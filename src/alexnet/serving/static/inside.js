// The network drawn to scale, and what is in the layer that is clicked: facts, maps, filters, what excites a map.

import { ask, request, turns } from "./api.js";
import { figure, h, loaded, short, table, whole } from "./dom.js";

export const title = "Inside";
export const needsPicture = false;
const SOME = 64; // maps that are drawn before more are asked for
const SMALLEST = 44; // pixels of a map's side on the page
const kept = { layer: "conv1" };

export async function draw(context) {
  const { panel, model, facts, signal, say } = context;
  if (!facts.layers.length) {
    panel.replaceChildren(h("p", {}, "This model is an export, which answers but has no layers to look into."));
    say("");
    return;
  }
  const text = await (await request("/page/network.svg", { model }, null, signal)).text();
  const svg = document.importNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);
  const found = h("div", { id: "layer", "aria-live": "polite" });
  panel.replaceChildren(
    h("h2", {}, `${facts.variant}, drawn to scale`),
    h("div", { class: "wide", id: "network", tabindex: "-1" }, svg),
    h("p", { class: "faint" }, "Click a layer, or go to it with the Tab key and press Enter."), found);
  const groups = [...svg.querySelectorAll("[data-layer]")].filter((one) => one.dataset.layer !== "input");
  const next = turns(signal);
  const open = (name) => {
    kept.layer = name;
    for (const one of groups) {
      one.classList.toggle("chosen", one.dataset.layer === name);
      one.setAttribute("aria-pressed", one.dataset.layer === name);
    }
    return layer({ ...context, signal: next() }, facts.layers.find((one) => one.name === name), found);
  };
  for (const one of groups) {
    one.addEventListener("click", () => open(one.dataset.layer).catch(context.fail));
    one.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(one.dataset.layer).catch(context.fail);
    });
  }
  const known = facts.layers.some((one) => one.name === kept.layer);
  await open(known ? kept.layer : facts.layers[0].name);
}

async function layer(context, one, place) {
  const { model, picture, signal, say } = context;
  say(`Working on ${one.name} …`);
  const rows = [
    ["gives", one.output.join(" × ")], ["kernel", one.kernel || "none"], ["parameters", whole(one.parameters)],
    ["multiply-adds", whole(one.macs)], ["computes", one.formula], ["paper's section", one.paper],
  ];
  const parts = [h("h2", {}, `${one.name} (${one.kind})`), table(["fact", one.name], rows)];
  place.replaceChildren(...parts);
  if (picture) {
    const found = await ask("/page/maps", { model, layer: one.name }, picture, signal);
    const drawn = one.spatial ? await maps(context, one, found) : [units(context, one, found)];
    if (signal.aborted) return;
    place.append(...drawn);
  } else {
    place.append(h("p", {}, "With a picture, its maps stand here."));
  }
  if (one.filters) {
    const found = await ask("/page/filters", { model, layer: one.name }, null, signal);
    if (signal.aborted) return;
    const [count, channels, side] = found.shape;
    place.append(h("h3", {}, "Filters"), h("div", { class: "filters" }, figure(found.sheet, `The filters of ${one.name}`,
      `${whole(count)} filters of ${channels} × ${side} × ${side}${found.colour ? ", in colour" : ", the mean over what they see; what excites them says more"}`)));
  }
  say(`${one.name}: ${one.output.join(" × ")}`);
}

function units(context, one, found) {
  const most = Math.max(Math.abs(found.greatest), Math.abs(found.least), 1e-30);
  const named = one.output[0] === context.facts.classes.length;
  const rows = found.order.slice(0, 20).map((number) => [
    named ? context.facts.classes[number] : `unit ${number}`, short(found.means[number]),
    meter(Math.abs(found.means[number]) / most)]);
  return h("div", { id: "units" }, h("h3", {}, `The most excited of ${whole(found.shape[0])} units`), table(["unit", "value", "share of the greatest"], rows));
}

function meter(share) {
  const bar = h("span", { class: "meter" });
  bar.style.width = `${Math.round(100 * Math.min(1, share))}px`;
  return bar;
}

async function maps(context, one, found) {
  const [count, height, width] = found.shape;
  const [sheet, seen] = await Promise.all([loaded(found.sheet), loaded(found.picture)]);
  const times = Math.max(1, Math.round(SMALLEST / width));
  const grid = h("div", { class: "maps", id: "maps", role: "group", "aria-label": `Maps of ${one.name}, brightest first` });
  const large = h("div", { id: "enlarged", "aria-live": "polite" });
  const at = (number) => [(number % found.across) * width, Math.floor(number / found.across) * height];
  const button = (number) => {
    const canvas = h("canvas", { width: width * times, height: height * times });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, ...at(number), width, height, 0, 0, canvas.width, canvas.height);
    return h("button", {
      type: "button", "aria-label": `map ${number}, mean ${short(found.means[number])}`, title: `map ${number}`,
      onclick: (event) => {
        grid.querySelectorAll("[aria-pressed=true]").forEach((other) => other.setAttribute("aria-pressed", "false"));
        event.currentTarget.setAttribute("aria-pressed", "true");
        enlarge(context, one, found, number, sheet, at(number), seen, large);
      },
    }, canvas);
  };
  grid.append(...found.order.slice(0, SOME).map(button));
  const more = h("button", { type: "button", hidden: count <= SOME, onclick: () => {
    grid.append(...found.order.slice(SOME).map(button));
    more.hidden = true;
  } }, `Show all ${whole(count)} maps`);
  enlarge(context, one, found, found.order[0], sheet, at(found.order[0]), seen, large);
  return [
    h("h3", {}, `Maps, brightest first: ${whole(count)} of ${width} × ${height}`), grid, more,
    h("p", { class: "faint" }, `Black is ${short(Math.min(0, found.least))}, white ${short(found.greatest)}, in all maps of this layer.`), large];
}

function enlarge(context, one, found, number, sheet, [x, y], seen, place) {
  const [, height, width] = found.shape;
  const side = 320;
  const { start, stride } = found.field; // a place lies in the middle of what it sees, so the map is not stretched
  const canvas = h("canvas", { width: side, height: side, role: "img", "aria-label": `Map ${number} of ${one.name} over the picture` });
  const mix = h("input", { type: "range", min: "0", max: "100", value: "70", oninput: () => paint() });
  const pen = canvas.getContext("2d");
  const paint = () => {
    pen.globalAlpha = 1;
    pen.globalCompositeOperation = "source-over";
    pen.imageSmoothingEnabled = true;
    pen.filter = "grayscale(1)";
    pen.drawImage(seen, 0, 0, side, side);
    pen.filter = "none";
    pen.globalAlpha = Number(mix.value) / 100;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, x, y, width, height, start * side, start * side, stride * width * side, stride * height * side);
    pen.globalAlpha = 1;
    pen.globalCompositeOperation = "multiply";
    pen.fillStyle = "#ffd98a";
    pen.fillRect(0, 0, side, side);
  };
  paint();
  const excites = h("div", { class: "sheet" });
  const search = h("button", { type: "button", onclick: async () => {
    search.disabled = true;
    context.say("Looking through the folder …");
    try {
      const { patches, pictures } = await ask("/page/patches", { model: context.model, layer: one.name, map: number }, null, context.signal);
      excites.replaceChildren(...patches.map((patch) => figure(patch.picture, `A patch of ${patch.file}`, h("b", {}, short(patch.value)), ` ${patch.file}`)));
      context.say(`The ${patches.length} of ${whole(pictures)} pictures that excite map ${number} of ${one.name} most`);
    } catch (error) {
      context.fail(error);
    }
    search.disabled = false;
  } }, "Which pictures of the folder excite it most");
  place.replaceChildren(
    h("h3", {}, `Map ${number} over the picture`), canvas, h("div", { class: "row" }, h("label", {}, "How much of the map ", mix)),
    context.about.pictures ? search : h("p", { class: "faint" }, "Start the server with --pictures FOLDER to see what excites a map most."), excites);
}
