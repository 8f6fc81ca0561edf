// The page, wired together: tabs, keyboard, dropped files, theme, the queue.

import { call, get, post } from "./api.js";
import { $, make } from "./dom.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import { requestIn } from "./png.js";
import * as run from "./run.js";
import * as source from "./source.js";
import * as stage from "./stage.js";

const AXES = { steps: Number, guidance: Number, seed: Number, scheduler: String, model: String };
let mode = "create";
let parameters = {};

function setMode(name) {
  mode = name;
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  for (const which of ["compare", "grid"]) for (const element of document.querySelectorAll(`.only-${which}`)) element.hidden = which !== name;
  $("go-text").textContent = { create: "Generate", compare: "Compare", grid: "Draw the grid" }[name];
  $("count").closest(".field").hidden = name !== "create";
}

function setUpTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  for (const tab of tabs) {
    tab.addEventListener("click", () => setMode(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      setMode(next.id.slice(4));
      next.focus();
    });
  }
}

const actions = {
  "Same settings": (picture) => form.restore(picture.request),
  "Paint over": async (picture) => source.set(await (await call(picture.url)).blob()),
  "Compare": (picture) => { form.restore(picture.request); setMode("compare"); },
};

async function create() {
  const wish = { ...form.wish(), ...(await source.fields()) };
  const job = await run.job(wish, { forming: stage.forming(wish.width, wish.height) });
  await stage.finished(job.pictures, actions);
}

async function compare() {
  const wish = { ...form.wish(), ...(await source.fields()), count: 1 };
  const names = [$("model").value, $("model-b").value];
  const sides = [];
  for (const model of names) {
    const job = await run.job({ ...wish, model }, { forming: stage.forming(wish.width, wish.height) }, `${model}: `);
    sides.push({ model, picture: job.pictures[0], parameters: parameters[model] });
  }
  await stage.compared(...sides);
}

function axis(which) {
  const name = $(`axis-${which}`).value;
  const values = name ? $(`values-${which}`).value.split(",").map((word) => word.trim()).filter(Boolean) : [""];
  return { name, values };
}

async function grid() {
  const [x, y] = [axis("x"), axis("y")];
  const put = stage.grid(x, y);
  const base = { ...form.wish(), ...(await source.fields()), count: 1 };
  for (const [row, down] of y.values.entries()) {
    for (const [column, across] of x.values.entries()) {
      const wish = { ...base };
      if (x.name) wish[x.name] = AXES[x.name](across);
      if (y.name) wish[y.name] = AXES[y.name](down);
      const number = row * x.values.length + column + 1;
      const job = await run.job(wish, {}, `${number} of ${x.values.length * y.values.length}: `);
      await put(row, column, job.pictures[0]);
    }
  }
}

async function go() {
  if (!$("form").reportValidity()) return;
  await run.during({ create, compare, grid }[mode]);
  await gallery.refresh().catch(run.show);
}

function setUpGrid() {
  for (const which of ["x", "y"]) {
    const none = which === "y" ? [make("option", { value: "" }, "nothing")] : [];
    $(`axis-${which}`).replaceChildren(...none, ...Object.keys(AXES).map((name) => make("option", { value: name, selected: name === (which === "x" ? "steps" : "guidance") }, name)));
  }
  const count = () => { $("grid-size").textContent = `${axis("x").values.length * axis("y").values.length} pictures`; };
  for (const id of ["axis-x", "axis-y", "values-x", "values-y"]) $(id).addEventListener("input", count);
  count();
}

function setUpDrop() {
  const over = (is) => (event) => { event.preventDefault(); $("drop").hidden = !is; };
  addEventListener("dragover", over(true));
  addEventListener("dragleave", over(false));
  addEventListener("drop", async (event) => {
    over(false)(event);
    const file = event.dataTransfer.files[0];
    if (!file) return;
    const request = await requestIn(file);
    if (request) { form.restore(request); $("error").hidden = true; return; }
    if (!(await source.set(file).then(() => true, () => false))) { source.clear(); run.show(new Error(`${file.name} carries no settings of ssd1b and is no picture to paint over.`)); }
  });
}

function setUpTheme() {
  const root = document.documentElement;
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => { $("theme").textContent = dark() ? "☀" : "☾"; };
  root.dataset.theme = localStorage.getItem("ssd1b-theme") ?? "";
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("ssd1b-theme", root.dataset.theme);
    label();
  });
  label();
}

async function showQueue() {
  const { jobs } = await get("/v1/jobs?limit=100");
  const open = jobs.filter((job) => ["waiting", "running"].includes(job.state)).reverse();
  $("queue-count").textContent = open.length;
  $("queue-empty").hidden = open.length > 0;
  $("queue-list").replaceChildren(...open.map((job) =>
    make("li", {}, make("span", { title: job.request.prompt }, `${job.state === "running" ? "▶ " : ""}${job.request.prompt}`),
      make("button", { type: "button", class: "quiet", "aria-label": `Cancel ${job.request.prompt}`, onclick: async () => { await post(`/v1/jobs/${job.id}/cancel`); showQueue(); } }, "Cancel"))));
}

function setUpQueue() {
  $("queue-button").addEventListener("click", () => {
    const open = $("queue").hidden;
    $("queue").hidden = !open;
    $("queue-button").setAttribute("aria-expanded", open);
    if (open) showQueue().catch(run.show);
  });
  const look = async () => {
    if (document.visibilityState === "visible") await showQueue().then(() => run.away(false), (error) => run.away(!error.status));
    setTimeout(look, 2000);
  };
  look();
}

async function start() {
  setUpTheme();
  stage.clear();
  const about = await get("/v1/about");
  parameters = Object.fromEntries(about.models.map((model) => [model.name, model.parameters]));
  form.setUp(about);
  setUpTabs();
  setUpGrid();
  setUpDrop();
  setUpQueue();
  source.setUp();
  setMode("create");
  $("form").addEventListener("submit", (event) => { event.preventDefault(); go(); });
  $("stop").addEventListener("click", () => run.stop().catch(run.show));
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); go(); }
    if (event.key === "Escape" && run.isRunning()) run.stop().catch(run.show);
  });
  await gallery.setUp(async (picture) => { form.restore(picture.request); await stage.finished([picture], actions); });
}

start().catch(run.show);
