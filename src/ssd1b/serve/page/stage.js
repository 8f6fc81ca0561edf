// The middle of the page: the picture that forms or is finished, a comparison, a grid.

import { pictureUrl } from "./api.js";
import { $, make, seconds } from "./dom.js";

const empty = () => make("div", { class: "empty" }, make("p", {}, "Say what is to be seen, and press Generate."));

export function clear() {
  $("canvas").replaceChildren(empty());
  $("caption").replaceChildren();
}

// Shown at its own size, a small one larger: a miniature would be lost in the middle.
function picture(src, alt, width, height) {
  const image = make("img", { src: src || null, alt, width, height });
  image.style.aspectRatio = `${width} / ${height}`;
  image.style.setProperty("--height", `${height}px`);
  return image;
}

// A picture that is being made: one image that is exchanged, at its final size from the start.
export function forming(width, height) {
  const image = picture("", "The picture while it forms", width, height);
  let there = false;
  return (url) => {
    image.src = url;
    if (!there) { $("canvas").replaceChildren(image); $("caption").replaceChildren(); there = true; }
  };
}

export async function finished(pictures, actions) {
  const images = await Promise.all(pictures.map(async (each) =>
    picture(await pictureUrl(each.url), each.request.prompt, each.request.width, each.request.height)));
  $("canvas").replaceChildren(images.length === 1 ? images[0] : make("div", { class: "tiles" }, ...images));
  const first = pictures[0];
  const said = `${first.request.width} × ${first.request.height}, ${first.request.steps} steps, seed ${first.request.seed}, ${first.request.model}, ${seconds(first.seconds)}`;
  const link = make("a", { href: await pictureUrl(first.url), download: `ssd1b-${first.request.seed}.png` }, "Save");
  $("caption").replaceChildren(said, " ", link, ...Object.entries(actions).flatMap(([name, act]) => [" ", make("button", { type: "button", class: "quiet", onclick: () => act(first) }, name)]));
}

// Two models, one prompt and seed, a slider between them; times and sizes below.
export async function compared(left, right) {
  const [a, b] = await Promise.all([left, right].map((each) => pictureUrl(each.picture.url)));
  const frame = make("div", { class: "compare" },
    make("img", { src: b, alt: `${right.model}: ${right.picture.request.prompt}` }),
    make("img", { src: a, class: "top", alt: `${left.model}: ${left.picture.request.prompt}` }),
    make("div", { class: "edge" }));
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `${left.model} to the left, ${right.model} to the right` });
  slider.addEventListener("input", () => frame.style.setProperty("--at", `${slider.value}%`));
  frame.style.setProperty("--ratio", `${left.picture.request.width} / ${left.picture.request.height}`);
  frame.style.setProperty("--wide", left.picture.request.width / left.picture.request.height);
  frame.append(slider);
  $("canvas").replaceChildren(frame);
  const ratio = right.picture.seconds / left.picture.seconds;
  const row = (side) => make("tr", {}, make("th", { scope: "row" }, side.model), make("td", {}, seconds(side.picture.seconds)), make("td", {}, side.parameters ? `${(side.parameters / 1e6).toFixed(1)} M` : "–"));
  const [faster, slower] = ratio >= 1 ? [left, right] : [right, left];
  $("caption").replaceChildren(
    make("table", { class: "compare-table" },
      make("thead", {}, make("tr", {}, ...["Model", "Time", "UNet parameters"].map((word) => make("th", { scope: "col" }, word)))),
      make("tbody", {}, row(left), row(right))),
    make("p", {}, `${faster.model} took ${Math.max(ratio, 1 / ratio).toFixed(2)} times less time than ${slower.model} on this picture.`));
}

// A grid with its labels; cells are filled as they come.
export function grid(x, y) {
  const sheet = make("div", { class: "sheet" });
  sheet.style.gridTemplateColumns = `auto repeat(${x.values.length}, minmax(72px, 1fr))`;
  const cells = y.values.map(() => x.values.map(() => make("div", { class: "blank" })));
  sheet.append(make("span", {}), ...x.values.map((value) => make("b", {}, `${x.name} ${value}`)));
  y.values.forEach((value, row) => sheet.append(make("b", {}, y.name ? `${y.name} ${value}` : ""), ...cells[row]));
  $("canvas").replaceChildren(sheet);
  $("caption").replaceChildren();
  return async (row, column, picture) => {
    const image = make("img", { src: await pictureUrl(picture.url), alt: `${x.name} ${x.values[column]}, ${y.name} ${y.values[row]}` });
    cells[row][column].replaceWith(image);
    cells[row][column] = image;
  };
}
