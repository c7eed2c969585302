// The pictures of an index that are nearest to this one.

import { ask, blobUrl } from "./api.js";
import { figure, h, short, whole } from "./dom.js";

export const title = "Near";
export const needsPicture = true;

export async function draw({ panel, model, picture, facts, signal, say }) {
  if (!facts.index) {
    panel.replaceChildren(h("p", {}, "This model has no index. Make one with "),
      h("pre", {}, "alexnet index MODEL photos/ INDEX"), h("p", {}, "and start the server with --index INDEX."));
    say("");
    return;
  }
  const { results: [{ neighbours }] } = await ask("/similar", { model, count: 12 }, picture, signal);
  const sheet = h("div", { class: "sheet", id: "near" });
  panel.replaceChildren(h("h2", {}, `The nearest of ${whole(facts.indexed)} pictures by ${facts.index}`), sheet);
  for (const one of neighbours) {
    let source = "";
    try {
      source = await blobUrl("/page/indexed", { model, row: one.row }, signal);
    } catch (error) {
      if (signal.aborted) throw error;
    }
    sheet.append(figure(source, source ? one.file : `${one.file} is no longer where it was`,
      h("b", {}, short(one.distance)), ` ${one.file}`));
  }
  say(`${neighbours.length} pictures`);
}
