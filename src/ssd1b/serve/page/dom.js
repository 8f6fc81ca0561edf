// Making elements. Text is always set as text, never as markup: prompts come from anywhere.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export function drawing(width, height, size = 26) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const scale = (size - 4) / Math.max(width, height);
  const [w, h] = [width * scale, height * scale];
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  svg.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS(svg.namespaceURI, "rect");
  for (const [name, value] of Object.entries({ x: (size - w) / 2, y: (size - h) / 2, width: w, height: h, rx: 2 })) rect.setAttribute(name, value);
  svg.append(rect);
  return svg;
}

export function seconds(value) {
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  return `${Math.floor(value / 60)}:${String(Math.round(value % 60)).padStart(2, "0")} min`;
}
