// Where the evidence for a class lies, by three methods.

import { ask, turns } from "./api.js";
import { figure, h, short } from "./dom.js";
import { chooser } from "./choosing.js";

export const title = "Why";
export const needsPicture = true;
const kept = { method: "cam" };

export async function draw(context) {
  const { panel, model, picture, facts, about, signal, say, fail } = context;
  const { results: [{ classes }] } = await ask("/predict", { model }, picture, signal);
  const shown = h("div", { class: "sheet", id: "heat" });
  const says = h("p", { id: "says" });
  let index = classes[0].index;
  const next = turns(signal);
  const update = async () => {
    const mine = next();
    say("Working …");
    try {
      const found = await ask("/page/heat", { model, method: kept.method, class: index }, picture, mine);
      shown.replaceChildren(
        figure(found.picture, `${found.title} for ${found.class}, over the picture`, `${found.title} for ${found.class}`),
        figure(found.alone, `${found.title} for ${found.class}, alone`, `from ${short(found.least)} to ${short(found.greatest)}`));
      says.textContent = found.says;
      say(`${found.title} for ${found.class}`);
    } catch (error) {
      fail(error);
    }
  };
  const methods = h("fieldset", {}, h("legend", {}, "Method"), Object.entries(about.methods).map(([name, one]) =>
    h("label", {}, h("input", {
      type: "radio", name: "method", value: name, checked: name === kept.method,
      onchange: () => { kept.method = name; update(); },
    }), ` ${one.title}`)));
  const choose = chooser("Class", facts.classes, classes.map((one) => one.index), index, (chosen) => { index = chosen; update(); });
  panel.replaceChildren(h("h2", {}, "Where the evidence for a class lies"), methods, choose, shown, says);
  await update();
}
