// A picture to paint over: chosen or dropped, with a mask that is painted on it.

import { $ } from "./dom.js";

let picture = null;
let painted = false;

export function setUp() {
  $("source-file").addEventListener("change", (event) => { const file = event.target.files[0]; if (file) set(file); event.target.value = ""; });
  $("source-clear").addEventListener("click", clear);
  $("mask-clear").addEventListener("click", wipe);
  const canvas = $("mask");
  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = at(event); stroke(last, last); });
  canvas.addEventListener("pointermove", (event) => { if (last) { const next = at(event); stroke(last, next); last = next; } });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
}

export async function set(file) {
  const url = URL.createObjectURL(file);
  picture = file;
  $("source-image").src = url;
  await $("source-image").decode();
  $("mask").width = $("source-image").naturalWidth;
  $("mask").height = $("source-image").naturalHeight;
  wipe();
  $("source").hidden = false;
}

export function clear() {
  picture = null;
  painted = false;
  $("source").hidden = true;
}

function wipe() {
  painted = false;
  $("mask").getContext("2d").clearRect(0, 0, $("mask").width, $("mask").height);
}

function stroke([x, y], [toX, toY]) {
  const canvas = $("mask");
  const pen = canvas.getContext("2d");
  painted = true;
  pen.strokeStyle = "#fff";
  pen.lineCap = "round";
  pen.lineWidth = (Number($("brush").value) / canvas.getBoundingClientRect().width) * canvas.width;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX + 0.01, toY);
  pen.stroke();
}

const base64 = (blob) => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.readAsDataURL(blob);
});

// What a wish says of it: nothing, or the picture, perhaps its mask (white on black), and the strength.
export async function fields() {
  if (!picture) return {};
  const said = { image: await base64(picture), strength: Number($("strength").value) };
  if (!painted) return said;
  const black = document.createElement("canvas");
  [black.width, black.height] = [$("mask").width, $("mask").height];
  const pen = black.getContext("2d");
  pen.fillRect(0, 0, black.width, black.height);
  pen.drawImage($("mask"), 0, 0);
  return { ...said, mask: black.toDataURL("image/png") };
}
