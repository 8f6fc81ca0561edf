// One job from the click to its pictures: progress, a picture that forms, stop.

import { call, events, post } from "./api.js";
import { $, seconds } from "./dom.js";

let running = null;
export const isRunning = () => running !== null;

export async function stop() {
  const now = running;
  if (!now) return;
  now.stopped = true;
  await Promise.all([...now.jobs].map((id) => post(`/v1/jobs/${id}/cancel`)));
}

// Everything that `work` does counts as one run: the button turns into Stop meanwhile.
export async function during(work) {
  if (running) return null;
  running = { jobs: new Set(), stopped: false };
  $("go").disabled = true;
  $("stop").hidden = false;
  $("progress").hidden = false;
  $("error").hidden = true;
  try {
    return await work(running);
  } catch (error) {
    if (!running.stopped) show(error);
    return null;
  } finally {
    running = null;
    $("go").disabled = false;
    $("stop").hidden = true;
    $("progress").hidden = true;
  }
}

export function show(error) {
  $("error").textContent = error.message ?? String(error);
  $("error").hidden = false;
}

// Run one job; returns it when it is done. `watch` hears of steps and finished pictures.
export async function job(wish, watch = {}, label = "") {
  const key = `${wish.model}-${Date.now()}-${Math.random()}`;
  const added = await post("/v1/jobs", wish, { "idempotency-key": key });
  running?.jobs.add(added.id);
  progress(0, label + waiting(added));
  for await (const event of events(added.id, away)) {
    if (event.type === "started") progress(0, label + "loading");
    if (event.type === "step") {
      const done = (event.picture * event.steps + event.step) / (event.pictures * event.steps);
      progress(done, `${label}step ${event.step} of ${event.steps}, ${seconds(event.seconds_left)} left`);
      if (event.preview) watch.forming?.(`data:image/png;base64,${event.preview}`);
    }
    if (event.type === "job" || event.type === "queued") progress(0, label + waiting(event));
    if (event.state === "done") return event;
    if (event.state === "cancelled") { running && (running.stopped = true); throw new Error("Stopped."); }
    if (["failed", "interrupted"].includes(event.state)) throw new Error(event.error);
  }
  return (await call(`/v1/jobs/${added.id}`)).json();
}

const waiting = (told) => (told.ahead ? `${told.ahead} before this one, about ${seconds(told.seconds_ahead)}` : "starting");

function progress(share, text) {
  $("bar").value = share;
  $("progress-text").textContent = text;
}

export function away(is) {
  $("connection").textContent = is ? "The server is away; trying again." : "";
}
