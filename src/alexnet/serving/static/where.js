// Where in a large picture the network sees a class.

import { ask, turns } from "./api.js";
import { figure, h, percent } from "./dom.js";
import { chooser } from "./choosing.js";

export const title = "Where";
export const needsPicture = true;

export async function draw({ panel, model, picture, facts, signal, say, fail }) {
  const shown = h("div", { class: "sheet", id: "where" });
  const choose = h("div", {});
  panel.replaceChildren(h("h2", {}, "The network over the whole picture"), choose, shown);
  const next = turns(signal);
  const update = async (index) => {
    const mine = next();
    say("Working …");
    try {
      const found = await ask("/page/where", { model, class: index }, picture, mine);
      if (!choose.children.length) {
        choose.append(chooser("Class", facts.classes, found.peaks.map((one) => one.index), found.index, update));
      }
      shown.replaceChildren(figure(found.picture, `Where ${found.class} is seen`,
        `${found.class}: the most probable at ${percent(found.share, 1)} of ${found.shape[1]} × ${found.shape[0]} places, `,
        `each of which sees ${found.input} × ${found.input} of ${found.size[0]} × ${found.size[1]} pixels, ${found.stride} apart`));
      say(`Where ${found.class} is seen`);
    } catch (error) {
      fail(error);
    }
  };
  await update(null);
}
