// The answer, how each of the ten views votes, and what is done to the picture before.

import { ask } from "./api.js";
import { bars, figure, h } from "./dom.js";

export const title = "Classify";
export const needsPicture = true;

export async function draw({ panel, model, picture, name, signal, say }) {
  const began = performance.now();
  const found = await ask("/predict", { model }, picture, signal);
  const seconds = performance.now() - began;
  const { classes } = found.results[0];
  const answer = h("div", { id: "answer" }, bars(classes));
  panel.replaceChildren(h("h2", {}, `What ${name} is taken for`), answer);
  say(`${classes[0].label}, ${(100 * classes[0].probability).toFixed(1)} %, answered in ${seconds.toFixed(0)} ms`);
  const steps = h("div", { class: "sheet", id: "steps" });
  panel.append(h("h2", {}, "What is done to the picture before"), steps);
  const { steps: done } = await ask("/page/steps", { model }, picture, signal);
  steps.append(...done.map((one) => figure(one.picture, `${one.name}: ${one.says}`,
    h("b", {}, one.name), ` ${one.width} × ${one.height}: ${one.says}`)));
  const views = h("div", { class: "sheet", id: "ten" });
  const heading = h("h2", {}, "The ten views of the paper, and how each votes");
  panel.append(heading, views);
  const votes = await ask("/page/views", { model }, picture, signal);
  views.append(...votes.views.map((one) => h("figure", {},
    h("img", { src: one.picture, alt: `${one.name} view` }), h("figcaption", {}, h("b", {}, one.name), bars(one.classes.slice(0, 3))))));
  panel.append(h("h3", {}, "The mean of the ten"), h("div", { id: "mean" }, bars(votes.mean)));
}
