// Two models on one picture: their answers, and how far their layers are apart.

import { ask, turns } from "./api.js";
import { bars, figure, h, percent, short } from "./dom.js";

export const title = "Compare";
export const needsPicture = true;
const kept = { other: null };

export async function draw({ panel, model, picture, about, signal, say, fail }) {
  const others = about.models.map((one) => one.name).filter((name) => name !== model);
  if (!others.length) {
    panel.replaceChildren(h("p", {}, "Start the server with two models to compare them:"),
      h("pre", {}, "alexnet serve MODEL OTHER"));
    say("");
    return;
  }
  if (!others.includes(kept.other)) kept.other = others[0];
  const shown = h("div", { id: "compared" });
  const choose = h("select", { onchange: () => { kept.other = choose.value; update(); } },
    others.map((name) => h("option", { value: name, selected: name === kept.other }, name)));
  const next = turns(signal);
  const update = async () => {
    const mine = next();
    say("Working …");
    try {
      const found = await ask("/page/compare", { model, other: kept.other }, picture, mine);
      shown.replaceChildren(
        h("div", { class: "pair" }, [found.first, found.second].map((one) =>
          h("div", {}, h("h3", {}, one.model), bars(one.classes)))),
        h("h3", {}, "How far the layers are apart"),
        h("div", { class: "sheet" }, found.layers.map((one) => one.map
          ? figure(one.map, `Where ${one.layer} differs`, h("b", {}, one.layer), ` ${percent(one.relative, 3)} of its length, at most ${short(one.difference)}`)
          : h("figure", {}, h("figcaption", {}, h("b", {}, one.layer), ` ${percent(one.relative, 3)} of its length, at most ${short(one.difference)}`)))),
        h("p", {}, found.apart.length ? `In one of the two only, or of other shapes: ${found.apart.join(", ")}.` : ""));
      say(`${found.first.model} and ${found.second.model}`);
    } catch (error) {
      fail(error);
    }
  };
  panel.replaceChildren(h("h2", {}, "Two models on this picture"), h("label", {}, "The other ", choose), shown);
  await update();
}
