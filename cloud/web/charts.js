// Bars, heat maps and curves, drawn from numbers.

import {el, svg} from "./dom.js";

// From few to many: dark violet to light yellow, each step as much lighter as the last.
const RAMP = [[13, 8, 60], [84, 15, 109], [158, 40, 100], [222, 84, 58], [251, 164, 40], [252, 250, 180]];

export function rampColour(share) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const mixed = RAMP[low].map((value, i) => Math.round(value + (at - low) * (RAMP[low + 1][i] - value)));
  return `rgb(${mixed.join(" ")})`;
}

// Cells of a grid over the whole context.
export function drawCells(context, width, height, {rows, columns, z}, most) {
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const left = Math.round((column * width) / columns);
      const top = Math.round((row * height) / rows);
      context.fillStyle = rampColour(most ? z[row * columns + column] / most : 0);
      context.fillRect(left, top, Math.round(((column + 1) * width) / columns) - left, Math.round(((row + 1) * height) / rows) - top);
    }
  }
}

export function rampBar() {
  const canvas = el("canvas", {class: "ramp", width: 128, height: 1, "aria-hidden": "true"});
  const context = canvas.getContext("2d");
  for (let i = 0; i < 128; i += 1) {
    context.fillStyle = rampColour(i / 127);
    context.fillRect(i, 0, 1, 1);
  }
  return canvas;
}

// One row a bar: {label, value, text, kind, colour}. Lengths are shares of the largest, or of `most`.
export function bars(rows, {most = Math.max(...rows.map((row) => row.value)), label}) {
  return el("ul", {class: "bars", "aria-label": label}, rows.map((row) => {
    const fill = el("span", {class: `bar-fill ${row.kind ?? ""}`});
    if (row.colour) fill.style.backgroundColor = row.colour;
    fill.style.width = `${Math.max(most ? (100 * row.value) / most : 0, row.value ? 0.6 : 0)}%`;
    return el("li", {},
      el("span", {class: "bar-label"}, row.label),
      el("span", {class: "bar-track", "aria-hidden": "true"}, fill),
      el("span", {class: "bar-value"}, row.text));
  }));
}

// One bar of several parts, with a key: {label, value, text, kind}.
export function stack(parts, label) {
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  const bar = el("div", {class: "stack", "aria-hidden": "true"}, parts.filter((part) => part.value > 0).map((part) => {
    const one = el("span", {class: `stack-part ${part.kind}`});
    one.style.width = `${(100 * part.value) / total}%`;
    return one;
  }));
  const key = el("ul", {class: "key", "aria-label": label}, parts.map((part) =>
    el("li", {}, el("span", {class: `swatch ${part.kind}`, "aria-hidden": "true"}), `${part.label} `, el("b", {}, part.text))));
  return el("div", {}, bar, key);
}

// Columns over time. values: numbers; label: what a screen reader says.
export function curve(values, {width = 240, height = 36, label}) {
  const most = Math.max(1, ...values);
  const step = width / values.length;
  const columns = values.map((value, i) => value ? svg("rect", {
    x: (i * step).toFixed(2),
    width: Math.max(step - 0.5, 0.5).toFixed(2),
    y: (height - Math.max(1.5, (value / most) * (height - 2))).toFixed(2),
    height: Math.max(1.5, (value / most) * (height - 2)).toFixed(2),
  }) : null);
  return svg("svg", {class: "curve", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label},
    svg("line", {x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5}), columns);
}
