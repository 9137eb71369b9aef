// The picture with a layer over it: compared by a line that moves, or blended. Knows no answers.

import {byId} from "./dom.js";

export class Stage {
  constructor() {
    this.figure = byId("stage");
    this.base = byId("stage-base");
    this.over = byId("stage-over");
    this.handle = byId("stage-handle");
    this.range = byId("mix-range");
    this.modes = [...document.querySelectorAll("input[name=mode]")];
    this.range.addEventListener("input", () => this.mix());
    for (const mode of this.modes) {
      mode.addEventListener("change", () => {
        this.range.value = this.mode === "compare" ? 50 : 65;
        this.mix();
      });
    }
    for (const kind of ["pointerdown", "pointermove"]) {
      this.figure.addEventListener(kind, (event) => this.drag(event));
    }
  }

  get mode() {
    return this.modes.find((mode) => mode.checked).value;
  }

  set mode(name) {
    for (const mode of this.modes) mode.checked = mode.value === name;
    this.range.value = name === "compare" ? 50 : 65;
    this.mix();
  }

  // The line follows a pressed pointer; keyboards have the slider.
  drag(event) {
    if (!event.buttons || this.mode !== "compare" || this.over.hidden) return;
    const {left, width} = this.base.getBoundingClientRect();
    this.range.value = Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width));
    this.mix();
  }

  picture(bitmap, label) {
    for (const canvas of [this.base, this.over]) {
      if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
      if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
    }
    this.base.getContext("2d").drawImage(bitmap, 0, 0);
    this.base.setAttribute("aria-label", label);
    this.figure.classList.remove("empty");
    byId("stage-empty").hidden = true;
  }

  // draw: gets a cleared context, its width and height; null: no layer.
  layer(draw) {
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    this.over.hidden = draw === null;
    if (draw) draw(context, this.over.width, this.over.height);
    this.mix();
  }

  mix() {
    const share = Number(this.range.value);
    const compare = this.mode === "compare";
    byId("mix-label").textContent = compare ? "Position" : "Opacity";
    this.range.setAttribute("aria-valuetext", `${share} %`);
    this.over.style.clipPath = compare ? `inset(0 0 0 ${share}%)` : "none";
    this.over.style.opacity = compare ? 1 : share / 100;
    this.handle.hidden = !compare || this.over.hidden;
    this.handle.style.left = `${share}%`;
    this.figure.classList.toggle("drags", compare && !this.over.hidden);
  }

  busy(now) {
    byId("stage-busy").hidden = !now;
    this.figure.setAttribute("aria-busy", String(now));
  }
}
