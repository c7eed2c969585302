// The frame: which model, which picture, which view. A view is shown anew when one of these changes.

import { ask, request } from "./api.js";
import { $, arrows, h, whole } from "./dom.js";
import * as classify from "./classify.js";
import * as compare from "./compare.js";
import * as inside from "./inside.js";
import * as near from "./near.js";
import * as train from "./train.js";
import * as where from "./where.js";
import * as why from "./why.js";

const VIEWS = { classify, inside, why, near, where, compare, train };
const state = { about: null, model: 0, picture: null, name: "", view: "classify" };
let running = null; // what the shown view waits for; aborted when another takes its place
let camera = null; // what is open, or being opened, with its stream
let asked = null; // the example that is on its way; aborted when another picture is chosen

const fail = (error) => {
  if (error.name === "AbortError") return;
  $("status").textContent = "";
  $("error").textContent = error.message;
};

function show(view, focus = false) {
  state.view = view;
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.view === view;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
    $(`panel-${tab.dataset.view}`).hidden = !chosen;
  }
  if (location.hash !== `#${view}`) history.replaceState(null, "", `#${view}`);
  refresh();
}

async function refresh() {
  running?.abort();
  running = new AbortController();
  const signal = running.signal;
  const module = VIEWS[state.view];
  const panel = $(`panel-${state.view}`);
  $("error").textContent = "";
  for (const other of $("panels").children) other.setAttribute("aria-busy", "false");
  if (module.needsPicture && !state.picture) {
    panel.replaceChildren(h("p", {}, "Choose a picture first."));
    $("status").textContent = "";
    return;
  }
  $("status").textContent = "Working …";
  panel.setAttribute("aria-busy", "true");
  const facts = state.about.models[state.model];
  const context = {
    ...state, signal, panel, fail, facts,
    model: facts.name, // a number may be another model's name
    say: (text) => { if (!signal.aborted) $("status").textContent = text; },
  };
  try {
    await module.draw(context);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
  if (!signal.aborted) {
    panel.setAttribute("aria-busy", "false");
    if ($("status").textContent === "Working …") $("status").textContent = "";
  }
}

function use(blob, name) {
  const limit = state.about.limits.upload;
  if (blob.size > limit) {
    fail(new Error(`${name} has ${whole(blob.size)} bytes; the server takes ${whole(limit)} at most.`));
    return;
  }
  asked?.abort();
  closeCamera();
  URL.revokeObjectURL($("shown").src);
  const image = $("shown");
  image.onerror = () => { image.hidden = true; }; // a kind that only the server reads
  image.src = URL.createObjectURL(blob);
  image.alt = `The picture ${name}`;
  image.hidden = false;
  $("hint").hidden = true;
  $("name").textContent = name;
  Object.assign(state, { picture: blob, name });
  refresh();
}

// -- where pictures come from

function filesOf(transfer) {
  return [...(transfer?.files ?? [])].concat([...(transfer?.items ?? [])].map((one) => one.getAsFile?.()).filter(Boolean));
}

function listen() {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) use(file, file.name);
    $("file").value = "";
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const [file] = filesOf(event.dataTransfer);
    if (file) use(file, file.name);
    else fail(new Error("What was dropped is no file; drop a picture's file."));
  });
  document.addEventListener("paste", (event) => {
    const [file] = filesOf(event.clipboardData);
    if (file) use(file, file.name || "pasted picture");
  });
  $("webcam").addEventListener("click", () => (camera ? closeCamera() : openCamera()));
  $("shoot").addEventListener("click", () => {
    const video = $("camera");
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => use(blob, "camera"), "image/png");
  });
}

async function openCamera() {
  const mine = (camera = {});
  const closed = () => camera !== mine; // meanwhile
  $("webcam").textContent = "Close the camera";
  try {
    mine.stream = await navigator.mediaDevices.getUserMedia({ video: true });
    if (closed()) return stop(mine);
    $("camera").srcObject = mine.stream;
    $("camera").hidden = false;
    $("shown").hidden = $("hint").hidden = true;
    await $("camera").play();
    if (!closed()) $("shoot").hidden = false; // there is a frame to take now
  } catch {
    if (closed()) return;
    closeCamera();
    fail(new Error("The camera cannot be used: there is none, or the browser was not allowed to."));
  }
}

const stop = (one) => one?.stream?.getTracks().forEach((track) => track.stop());

function closeCamera() {
  stop(camera);
  camera = null;
  $("camera").hidden = $("shoot").hidden = true;
  $("shown").hidden = !state.picture;
  $("hint").hidden = Boolean(state.picture);
  $("webcam").textContent = "Use the camera";
}

async function example(name) {
  asked?.abort();
  asked = new AbortController();
  try {
    use(await (await request("/page/examples", { name }, null, asked.signal)).blob(), name);
  } catch (error) {
    fail(error);
  }
}

// -- the beginning

function frame() {
  for (const [name, module] of Object.entries(VIEWS)) {
    $("tabs").append(h("button", {
      type: "button", role: "tab", id: `tab-${name}`, "data-view": name, "aria-controls": `panel-${name}`,
      onclick: () => state.view !== name && show(name), onfocus: () => state.view !== name && show(name),
    }, module.title));
    $("panels").append(h("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true }));
  }
  arrows($("tabs"), "[role=tab]");
  state.about.models.forEach((one, number) => $("model").append(h("option", { value: number }, one.name)));
  $("model").addEventListener("change", () => { state.model = Number($("model").value); about(); refresh(); });
  $("examples").append(...state.about.examples.map((name) =>
    h("button", { type: "button", class: "example", onclick: () => example(name) }, name.split(".")[0])));
  window.addEventListener("hashchange", () => { if (VIEWS[location.hash.slice(1)]) show(location.hash.slice(1)); });
}

function about() {
  const one = state.about.models[state.model];
  const network = one.variant ? `${one.variant}, ` : "";
  $("about").textContent =
    `${network}${whole(one.classes.length)} classes, sees ${one.input} × ${one.input} pixels, ${one.engine}`;
}

try {
  state.about = await ask("/page/models", {});
  frame();
  about();
  listen();
  const asked = location.hash.slice(1);
  show(VIEWS[asked] ? asked : "classify");
} catch (error) {
  fail(error);
}
