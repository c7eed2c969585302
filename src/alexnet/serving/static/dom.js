// Small helpers: elements, numbers in words, lists of classes with bars.

export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

export const whole = (value) => value.toLocaleString("en");

export const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;

export function short(value) {
  if (!Number.isFinite(value)) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export function bars(classes, marked = null) {
  return h("ol", { class: "bars" }, classes.map((one) => {
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * one.probability}%`;
    return h("li", { class: one.label === marked ? "marked" : null },
      bar, h("span", { class: "label" }, one.label), h("span", { class: "value" }, percent(one.probability)));
  }));
}

export function figure(source, alt, ...caption) {
  return h("figure", {}, h("img", { src: source, alt }), h("figcaption", {}, ...caption));
}

export function table(head, rows, caption = null) {
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption ?? head.join(", ") },
    h("table", {}, caption ? h("caption", {}, caption) : null,
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) =>
        place === 0 ? h("th", { scope: "row" }, cell) : h("td", {}, cell)))))));
}

export function loaded(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture that the server sent cannot be shown"));
    image.src = source;
  });
}

// One button of several is chosen: arrow keys move, as in a group of tabs.
export function arrows(group, selector) {
  group.addEventListener("keydown", (event) => {
    const all = [...group.querySelectorAll(selector)];
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[(to + all.length) % all.length].focus();
  });
}
