// One picture: sent to the server, which encodes and answers it; shown with its answers, its bits and its bytes.

import {explain, getJson, request} from "./api.js";
import {Camera} from "./camera.js";
import {bars, drawCells, rampBar, stack} from "./charts.js";
import {blobOf, byId, bytes, capital, count, debounced, decimals, el, fillBundles, milliseconds, percent, say} from "./dom.js";
import {Stage} from "./stage.js";

const ROOMS = ["kitchen", "library", "bedroom", "cafe", "workshop", "bathroom"];
const PHOTOS = ["macaws", "lighthouse", "boats", "aeroplane"]; // Kodak's, free of restrictions: deploy/samples/photos/CREDITS.md
const DEBOUNCE_MS = 70;
const BITS = "bits"; // the layer that is no task's
const STAGES = [
  ["read_ms", "read", "k1"], ["front_ms", "network’s front", "k2"], ["code_ms", "code", "k3"],
  ["queue_ms", "queue", "k4"], ["decode_ms", "decode", "k5"], ["tails_ms", "answer", "k6"],
];

class Analyse {
  constructor(section) {
    this.section = section;
    this.stage = new Stage();
    this.camera = new Camera();
    this.shown = null; // the last answer
    this.original = null; // the picture as it was chosen
    this.fitted = null; // the picture as the network sees it, to be sent again for another quality
    this.layer = "";
    this.bitmaps = {};
    this.running = null; // of the newest request
    this.listen();
  }

  listen() {
    byId("file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = ""; // the same file may be chosen again
      if (file) this.take(file);
    });
    byId("bundle").addEventListener("change", () => this.chooseBundle());
    byId("camera").addEventListener("click", () => this.toggleCamera());
    byId("quality").addEventListener("input", () => this.showQuality());
    const anew = debounced(() => this.encodeAnew(), DEBOUNCE_MS);
    byId("quality").addEventListener("input", anew);
    for (const kind of ["dragenter", "dragover"]) {
      this.section.addEventListener(kind, (event) => {
        event.preventDefault();
        this.stage.figure.classList.add("over");
      });
    }
    this.section.addEventListener("dragleave", (event) => {
      if (!this.section.contains(event.relatedTarget)) this.stage.figure.classList.remove("over");
    });
    this.section.addEventListener("drop", (event) => {
      event.preventDefault();
      this.stage.figure.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) this.take(file);
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData?.files ?? [];
      if (file && !this.section.hidden) this.take(file);
    });
  }

  show() {}

  hide() {
    this.camera.stop();
  }

  // Asks what the server serves; called with every look at it, because bundles come and go.
  async ready() {
    try {
      const bundles = await getJson("/v1/bundles");
      const before = this.bundles;
      this.bundles = bundles;
      if (JSON.stringify(bundles) === JSON.stringify(before)) return;
      const gone = !bundles.some(({fingerprint}) => fingerprint === this.bundle?.fingerprint);
      fillBundles(byId("bundle"), bundles);
      byId("bundle-choice").hidden = bundles.length < 2;
      if (gone) this.chooseBundle();
    } catch {
      // The header says it; asked again with the next look at the server.
    }
  }

  chooseBundle() {
    const chosen = byId("bundle").value;
    this.bundle = this.bundles.find((bundle) => bundle.fingerprint === chosen) ?? this.bundles[0];
    const {qualities, default_quality: quality} = this.bundle;
    const slider = byId("quality");
    slider.min = qualities[0];
    slider.max = qualities.at(-1);
    slider.value = quality;
    slider.disabled = slider.min === slider.max;
    this.showQuality();
    this.fillSamples(this.bundle.name === "rooms" ? ROOMS : PHOTOS);
    if (this.original) this.send(this.original, false); // another network may see another part of the picture
  }

  fillSamples(names) {
    byId("samples").replaceChildren(...names.map((name) => {
      const image = el("img", {src: `/web/samples/${name}.jpg`, alt: "", width: 72, height: 72, loading: "lazy"});
      const button = el("button", {type: "button", class: "sample", "aria-label": `Sample: ${name}`, title: capital(name)}, image);
      button.addEventListener("click", () => this.takeSample(name));
      return el("li", {}, button);
    }));
  }

  async takeSample(name) {
    this.camera.stop();
    try {
      const answer = await request(`/web/samples/${name}.jpg`);
      await this.send(await answer.blob(), false);
    } catch (error) {
      this.fail(error);
    }
  }

  take(file) {
    this.camera.stop();
    if (file.type && !file.type.startsWith("image/")) {
      this.fail(new Error(`${file.name} is not a picture`));
      return;
    }
    this.send(file, false);
  }

  async toggleCamera() {
    const button = byId("camera");
    if (this.camera.running) {
      this.camera.stop();
      return;
    }
    try {
      await this.camera.start(() => {
        button.textContent = "Use the camera";
        button.classList.remove("live");
      });
      button.textContent = "Stop the camera";
      button.classList.add("live");
      // One frame at a time: the next is taken when the last one is answered.
      while (this.camera.running) {
        const frame = await this.camera.frame();
        if (!frame || !(await this.send(frame, false))) break;
      }
    } catch (error) {
      this.fail(error);
    }
    this.camera.stop();
  }

  encodeAnew() {
    if (this.fitted && !this.camera.running) this.send(this.fitted, true);
  }

  showQuality() {
    const slider = byId("quality");
    byId("quality-value").textContent = slider.value;
  }

  // Sends a picture; the newest request wins, and cancels those before it. True if it was answered.
  async send(blob, fitted) {
    if (!fitted) this.original = blob;
    this.running?.abort();
    const running = (this.running = new AbortController());
    const query = new URLSearchParams();
    if (this.bundle) {
      query.set("quality", byId("quality").value);
      query.set("bundle", this.bundle.fingerprint);
    }
    if (fitted) query.set("fitted", "true");
    this.stage.busy(true);
    try {
      const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
      const answer = await request(`/v1/inspect?${query}`, {method: "POST", body: blob, type, signal: running.signal});
      const inspection = await answer.json();
      if (running !== this.running) return false;
      await this.fill(inspection);
      say(byId("analyse-error"), "");
      return true;
    } catch (error) {
      if (running === this.running) this.fail(error);
      return false;
    } finally {
      if (running === this.running) this.stage.busy(false);
    }
  }

  fail(error) {
    if (error.name === "AbortError") return;
    if (error.status === 404) this.ready(); // another bundle is served now
    const text = error.name === "Error" ? error.message : explain(error);
    say(byId("analyse-error"), `${text}.`.replace(/\.\.$/, "."));
  }

  async fill(inspection) {
    if (inspection.image) {
      this.fitted = blobOf(inspection.image);
      this.picture = await createImageBitmap(this.fitted);
    }
    this.bitmaps = {};
    for (const [task, {image}] of Object.entries(inspection.views)) {
      if (image) this.bitmaps[task] = await createImageBitmap(blobOf(image));
    }
    this.shown = inspection;
    this.stage.picture(this.picture, "The picture as the network sees it");
    for (const id of ["look", "quality-card", "bytes-card", "times-card"]) byId(id).hidden = false;
    byId("analyse-intro").hidden = true;
    this.fillLayers();
    this.fillBytes();
    this.fillAnswers();
    this.fillTimes();
    this.announce();
  }

  announce() {
    const {analysis} = this.shown;
    const best = Object.values(analysis.results).find((result) => result.top)?.top[0];
    const text = `${count(analysis.bytes.total)} bytes at quality ${analysis.quality}`;
    byId("analyse-live").textContent = best ? `${best.label}, ${percent(best.score)}; ${text}` : text;
  }

  // The layers: each task with a map, and the bits.

  get layers() {
    return [...Object.keys(this.bitmaps), BITS];
  }

  fillLayers() {
    const names = this.layers;
    if (!names.includes(this.layer) && this.layer !== "none") [this.layer] = names;
    const group = byId("layers");
    if (group.dataset.names !== names.join()) {
      group.dataset.names = names.join();
      group.replaceChildren(...[...names, "none"].map((name) => {
        const input = el("input", {type: "radio", name: "layer", value: name});
        input.addEventListener("change", () => this.choose(name));
        const text = name === BITS ? "Bits" : name === "none" ? "Picture" : capital(name);
        return el("label", {}, input, el("span", {}, text));
      }));
    }
    for (const input of group.querySelectorAll("input")) input.checked = input.value === this.layer;
    this.drawLayer();
  }

  choose(name) {
    this.layer = name;
    if (name === BITS) this.stage.mode = "blend";
    this.drawLayer();
  }

  drawLayer() {
    const bitmap = this.bitmaps[this.layer];
    const {bits} = this.shown;
    byId("mix").hidden = this.layer === "none";
    if (this.layer === BITS) {
      this.stage.layer((context, width, height) => drawCells(context, width, height, bits, Math.max(...bits.z)));
    } else {
      this.stage.layer(bitmap ? (context, width, height) => drawScaled(context, bitmap, width, height) : null);
    }
    byId("legend").replaceChildren(...this.legend());
    this.stage.figure.dataset.view = this.layer;
  }

  legend() {
    if (this.layer === BITS) return bitsLegend(this.shown.bits);
    const view = this.shown.views[this.layer];
    if (!view) return [];
    const result = this.shown.analysis.results[this.layer];
    if (!view.legend.length) return [el("p", {class: "muted"}, explainColours(result, view))];
    return [el("ul", {class: "classes", "aria-label": `Classes of ${this.layer}`}, view.legend.map((entry) => {
      const swatch = el("span", {class: "swatch", "aria-hidden": "true"});
      swatch.style.backgroundColor = `rgb(${entry.colour.join(" ")})`;
      const area = result.areas?.find((one) => one.index === entry.index);
      return el("li", {}, swatch, entry.label, area ? el("span", {class: "muted"}, ` ${percent(area.share)}`) : null);
    }))];
  }

  // The cards.

  fillBytes() {
    const {analysis, jpeg} = this.shown;
    const {total, b_v: v, b_z: z, bits_per_pixel: rate} = analysis.bytes;
    byId("total").textContent = count(total);
    const medium = jpeg.find((one) => one.name === "medium");
    byId("bytes-note").textContent =
      `${decimals(rate, 3)} bits a pixel; JPEG at quality ${medium.quality} takes ${count(medium.bytes / total)} times as many bytes`;
    byId("split").replaceChildren(stack([
      {label: "latent, b_z", value: z, text: bytes(z), kind: "k3"},
      {label: "hyperprior, b_v", value: v, text: bytes(v), kind: "k1"},
      {label: "container", value: total - v - z, text: bytes(total - v - z), kind: "k4"},
    ], "What the bytes are"));
    const rows = [{label: "Isthmus", value: total, text: bytes(total), kind: "ours"}];
    for (const one of jpeg) rows.push({label: `JPEG ${one.quality}`, value: one.bytes, text: bytes(one.bytes)});
    byId("jpeg").replaceChildren(bars(rows, {label: "Bytes beside JPEG’s"}));
    byId("quality-value").textContent = analysis.quality;
  }

  fillAnswers() {
    const {analysis, views} = this.shown;
    const cards = Object.entries(analysis.results).map(([task, result]) => {
      const body = answerBody(result, views[task]);
      return el("section", {class: "card", "aria-label": capital(task), "data-task": task}, el("h2", {}, capital(task)), body);
    });
    const warnings = analysis.warnings.map((text) => el("p", {class: "notice warn"}, text));
    byId("answers").replaceChildren(...warnings, ...cards);
  }

  fillTimes() {
    const {times} = this.shown.analysis;
    const parts = STAGES.filter(([name]) => times[name] !== undefined && times[name] !== null)
      .map(([name, label, kind]) => ({label, value: times[name], text: milliseconds(times[name]), kind}));
    byId("times-total").textContent = milliseconds(parts.reduce((sum, part) => sum + part.value, 0));
    byId("times").replaceChildren(stack(parts, "Time of each stage"));
  }
}

// What the colours of a map without classes mean.
function explainColours(result, view) {
  if (result.facing) return "Colours are directions: red grows to the right, green upwards, blue towards the camera.";
  if (result.median_m !== undefined) return `Light is near, dark is far: ${view.lines.join(" ")}.`;
  return view.lines.join(" ");
}

function drawScaled(context, bitmap, width, height) {
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
}

function bitsLegend({rows, columns, z, v}) {
  const most = Math.max(...z);
  const at = z.indexOf(most);
  const sum = z.reduce((total, value) => total + value, 0);
  const where = `row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1}`;
  return [
    el("div", {class: "scale"}, el("span", {}, "0"), rampBar(), el("span", {}, `${decimals(most, 0)} bits a cell`)),
    el("p", {class: "muted"},
      `${rows} × ${columns} cells hold ${count(sum)} bits of b_z, most in ${where}. ` +
      `b_v, ${count(v)} bits, describes the picture as a whole and belongs to no cell.`),
  ];
}

function answerBody(result, view) {
  const label = view.kind;
  if (result.top) {
    const rows = result.top.map((one) => ({label: one.label, value: one.score, text: percent(one.score), kind: "ours"}));
    return bars(rows, {most: 1, label});
  }
  if (result.facing) {
    const rows = Object.entries(result.facing).sort((a, b) => b[1] - a[1])
      .map(([way, share]) => ({label: way, value: share, text: percent(share), kind: "ours"}));
    return bars(rows, {most: 1, label});
  }
  if (result.areas) {
    const colours = new Map(view.legend.map((entry) => [entry.index, `rgb(${entry.colour.join(" ")})`]));
    const rows = result.areas.slice(0, 6).map((area) =>
      ({label: area.label, value: area.share, text: percent(area.share), kind: "ours", colour: colours.get(area.index)}));
    return bars(rows, {most: 1, label});
  }
  return el("div", {}, view.lines.map((line) => el("p", {}, line)));
}

export const startAnalyse = (section) => new Analyse(section);
