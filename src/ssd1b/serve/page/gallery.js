// What was made, newest first; a click restores the settings.

import { get, pictureUrl } from "./api.js";
import { $, make } from "./dom.js";

let oldest = null;
let onPick = () => {};

export function setUp(pick) {
  onPick = pick;
  $("more").addEventListener("click", () => load(oldest));
  return load(null);
}

async function load(before) {
  const { pictures } = await get(`/v1/pictures?limit=40${before ? `&before=${before}` : ""}`);
  const items = await Promise.all(pictures.map(item));
  if (before) $("strip").append(...items);
  else $("strip").replaceChildren(...items);
  oldest = pictures.at(-1)?.created ?? oldest;
  $("more").hidden = pictures.length < 40;
}

export const refresh = () => load(null);

async function item(picture) {
  const image = make("img", { src: await pictureUrl(picture.url), alt: picture.request.prompt || "a picture", loading: "lazy", height: 84 });
  const button = make("button", { type: "button", title: picture.request.prompt, onclick: () => pick(button, picture) }, image);
  return make("li", {}, button);
}

function pick(button, picture) {
  for (const each of $("strip").querySelectorAll("button")) each.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  onPick(picture);
}
