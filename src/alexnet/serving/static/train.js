// A run: its curves while it is trained, who is taken for whom, and the worst mistakes.

import { ask, blobUrl } from "./api.js";
import { curves } from "./curves.js";
import { figure, h, percent, short, table, whole } from "./dom.js";

export const title = "Train";
export const needsPicture = false;
const EVERY = 2000; // milliseconds between two looks at a run that goes on
const kept = {}; // by model: its lines

export async function draw(context) {
  const { panel, model, facts, about, signal, say, fail } = context;
  if (!facts.run) {
    panel.replaceChildren(h("p", {}, "This model is no run folder. Serve one that alexnet train has made, or makes now:"),
      h("pre", {}, "alexnet serve RUN"));
    say("");
    return;
  }
  const place = h("div", { id: "curves" });
  const evaluated = h("div", { id: "confusion" });
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      await confusion(context, evaluated);
    } catch (error) {
      fail(error);
    }
    button.disabled = false;
  } }, "Who is taken for whom");
  panel.replaceChildren(h("h2", {}, `The run ${facts.name}`), place,
    about.data ? button : h("p", { class: "faint" }, "Start the server with --data DATA to see who is taken for whom."), evaluated);
  const run = (kept[model] ??= { lines: [], next: 0 });
  let finished = false;
  let shown = -1;
  while (!signal.aborted) {
    const found = await ask("/page/run", { model, after: run.next }, null, signal);
    if (found.after !== run.next) run.lines = [];
    run.lines.push(...found.lines);
    run.next = found.next;
    finished = found.finished;
    if (run.next !== shown) {
      show(place, run.lines);
      shown = run.next;
      say(finished ? "This run is finished." : "This run goes on, or was stopped; the curves follow it.");
      panel.setAttribute("aria-busy", "false");
    }
    if (finished) return;
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

function show(place, lines) {
  const steps = lines.filter((one) => one.kind === "step");
  const epochs = lines.filter((one) => one.kind === "epoch");
  const points = (from, x, y) => from.map((one) => [one[x], one[y]]).filter(([, value]) => Number.isFinite(value));
  const losses = [
    { name: "training loss, a few steps", points: points(steps, "epoch", "loss"), faint: true },
    { name: "training loss", points: points(epochs, "epoch", "train_loss") },
    { name: "validation loss", points: points(epochs, "epoch", "valid_loss") },
  ];
  const errors = [
    { name: "training error", points: points(epochs, "epoch", "train_top1_error").map(([x, y]) => [x, 100 * y]) },
    { name: "validation error, top-1", points: points(epochs, "epoch", "valid_top1_error").map(([x, y]) => [x, 100 * y]) },
    { name: "validation error, top-5", points: points(epochs, "epoch", "valid_top5_error").map(([x, y]) => [x, 100 * y]) },
  ];
  const share = (value) => (Number.isFinite(value) ? percent(value) : "");
  const last = epochs.slice(-8).reverse();
  place.replaceChildren(
    h("div", { class: "pair" }, curves("Loss", "epoch", losses), curves("Error, %", "epoch", errors)),
    last.length ? table(["epoch", "training loss", "validation loss", "top-1 error", "top-5 error", "pictures/s"],
      last.map((one) => [String(one.epoch), short(one.train_loss), short(one.valid_loss), share(one.valid_top1_error),
        share(one.valid_top5_error), Number.isFinite(one.images_per_second) ? whole(Math.round(one.images_per_second)) : ""]),
      "The last epochs") : h("p", {}, "No epoch is finished yet."));
}

async function confusion(context, place) {
  const { model, signal, say } = context;
  say("Evaluating …");
  const found = await ask("/page/run/confusion", { model }, null, signal);
  const count = found.classes.length;
  const times = Math.max(1, Math.min(24, Math.floor(480 / count)));
  const canvas = h("canvas", { width: count * times, height: count * times, role: "img", tabindex: "0",
    "aria-label": `Confusion matrix of ${count} classes, labels down, answers across` });
  const pen = canvas.getContext("2d");
  found.matrix.forEach((row, y) => {
    const total = Math.max(1, row.reduce((a, b) => a + b, 0));
    row.forEach((value, x) => {
      pen.fillStyle = x === y ? `rgba(59,130,196,${value / total})` : `rgba(200,85,61,${Math.sqrt(value / total)})`;
      pen.fillRect(x * times, y * times, times, times);
    });
  });
  const said = h("p", { "aria-live": "polite" }, "Point at a place to read it.");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(count - 1, Math.floor(((event.clientX - box.left) / box.width) * count));
    const y = Math.min(count - 1, Math.floor(((event.clientY - box.top) / box.height) * count));
    if (x >= 0 && y >= 0) said.textContent = `${found.classes[y]} taken for ${found.classes[x]}: ${found.matrix[y][x]}`;
  });
  const pairs = found.matrix.flatMap((row, y) => row.map((value, x) => [value, y, x])).filter(([value, y, x]) => value && x !== y);
  pairs.sort((a, b) => b[0] - a[0]);
  const mistakes = h("div", { class: "sheet", id: "mistakes" });
  place.replaceChildren(...[
    h("h3", {}, `${percent(found.top1_error)} wrong of ${whole(found.images)} pictures`),
    found.notes.map((note) => h("p", { class: "faint" }, note)),
    count < found.all ? h("p", {}, `The ${count} of ${found.all} classes with most mistakes:`) : "",
    canvas, said,
    table(["is", "is taken for", "times"], pairs.slice(0, 10).map(([value, y, x]) => [found.classes[y], found.classes[x], String(value)]), "Most frequent mistakes"),
    h("h3", {}, "The mistakes that it is surest of"), mistakes].flat());
  for (const [number, one] of found.mistakes.entries()) {
    mistakes.append(figure(await blobUrl("/page/run/mistake", { model, place: number }, signal), `A ${one.truth}`,
      h("b", {}, one.truth), ` taken for ${one.answer} with ${percent(one.probability, 1)}; ${one.truth} got ${percent(one.of_truth, 1)}`));
  }
  say(`${percent(found.top1_error)} wrong`);
}
