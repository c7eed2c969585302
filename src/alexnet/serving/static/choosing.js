// A class by its name: the likely ones first, and any other by typing.

import { h } from "./dom.js";

let lists = 0;

export function chooser(label, classes, likely, chosen, changed) {
  const id = `classes-${(lists += 1)}`;
  const field = h("input", { list: id, value: classes[chosen], class: "class", autocomplete: "off", onchange: () => {
    const found = classes.indexOf(field.value.trim());
    field.setCustomValidity(found < 0 ? "This is none of the model's classes." : "");
    if (found < 0) field.reportValidity();
    else changed(found);
  } });
  const quick = likely.slice(0, 5).map((index) => h("button", { type: "button", onclick: () => {
    field.value = classes[index];
    field.setCustomValidity("");
    changed(index);
  } }, classes[index]));
  return h("div", { class: "row" }, h("label", {}, `${label} `, field),
    h("datalist", { id }, classes.map((name) => h("option", { value: name }))), quick);
}
