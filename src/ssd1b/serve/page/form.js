// The settings: what is on the form, filled from the server's defaults, from a picture, or by hand.

import { $, drawing, make } from "./dom.js";

let about = { models: [], schedulers: [], limits: {} };
let lastSeed = null;

export function setUp(told) {
  about = told;
  for (const id of ["model", "model-b"]) $(id).replaceChildren(...about.models.map((model) => make("option", { value: model.name }, model.name)));
  if (about.models.length > 1) $("model-b").selectedIndex = 1;
  $("scheduler").replaceChildren(...about.schedulers.map((name) => make("option", { value: name }, name)));
  $("steps").max = about.limits.steps;
  $("count").max = about.limits.count;
  pair("steps");
  pair("guidance");
  $("model").addEventListener("change", () => defaults());
  $("dice").addEventListener("click", () => { $("seed").value = ""; });
  $("reuse").addEventListener("click", () => { if (lastSeed != null) $("seed").value = lastSeed; });
  defaults();
}

function pair(id) {
  const [number, range] = [$(id), $(`${id}-range`)];
  number.addEventListener("input", () => { range.value = number.value; });
  range.addEventListener("input", () => { number.value = range.value; });
}

const model = () => about.models.find((each) => each.name === $("model").value) ?? about.models[0];

function setNumber(id, value) {
  $(id).value = value;
  $(`${id}-range`).value = value;
}

// The model's own settings; its nine shapes are drawn with it.
function defaults() {
  const own = model();
  setNumber("steps", own.steps);
  setNumber("guidance", own.guidance);
  $("scheduler").value = own.scheduler;
  const square = Object.entries(own.aspects).find(([, size]) => size[0] === own.width && size[1] === own.height)?.[0];
  const shapes = Object.entries(own.aspects).map(([name, [width, height]]) =>
    make("label", { title: `${width} × ${height}` },
      make("input", { type: "radio", name: "aspect", value: name, checked: name === (square ?? "1:1"), "aria-label": `${name}, ${width} by ${height} pixels` }),
      drawing(width, height), make("span", { "aria-hidden": "true" }, name)));
  document.querySelector("#aspects .shapes").replaceChildren(...shapes);
}

export function aspectSize() {
  const chosen = document.querySelector('input[name="aspect"]:checked')?.value ?? "1:1";
  return model().aspects[chosen];
}

// What is asked for. A seed is drawn here, so that a picture that is waited for is known already.
export function wish() {
  const [width, height] = aspectSize();
  const seed = $("seed").value.trim() || String(Math.floor(Math.random() * 2 ** 32));
  lastSeed = seed;
  const asked = {
    prompt: $("prompt").value, model: $("model").value, width, height,
    steps: Number($("steps").value), guidance: Number($("guidance").value),
    scheduler: $("scheduler").value, seed: Number(seed), count: Number($("count").value) || 1,
  };
  return $("negative").value ? { ...asked, negative: $("negative").value } : asked;
}

// Put a picture's request back on the form.
export function restore(request) {
  const known = about.models.some((each) => each.name === request.model);
  if (known) { $("model").value = request.model; defaults(); }
  $("prompt").value = request.prompt;
  $("negative").value = request.negative ?? "";
  $("negative-details").open = Boolean(request.negative);
  setNumber("steps", request.steps);
  setNumber("guidance", request.guidance);
  if (about.schedulers.includes(request.scheduler)) $("scheduler").value = request.scheduler;
  $("seed").value = request.seed;
  lastSeed = request.seed;
  const name = Object.entries(model().aspects).find(([, size]) => size[0] === request.width && size[1] === request.height)?.[0];
  const radio = name && document.querySelector(`input[name="aspect"][value="${name}"]`);
  if (radio) radio.checked = true;
}

export const models = () => about.models.map((each) => each.name);
export const schedulers = () => about.schedulers;
