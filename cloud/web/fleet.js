// The cameras: all of them with their last day, or one with its archived frames and their answers.

import {explain, getJson} from "./api.js";
import {curve} from "./charts.js";
import {fillRollout} from "./rollout.js";
import {ago, blobOf, byId, bytes, capital, clock, count, debounced, decimals, el, say} from "./dom.js";

const REFRESH_MS = 4000;
const LISTED = 200;
const PAGE = 12;
const QUIET_MS = 15 * 60_000;

const perAnswer = (camera) => (camera.answers ? bytes(Math.round(camera.bytes / camera.answers)) : "–");

const rate = (camera) => (camera.rate >= 10 ? count(camera.rate) : decimals(camera.rate, 1));

// What a camera's dot says, for eyes and for ears.
function health(camera) {
  if (!camera.last_at) return ["bad", "never answered"];
  const age = Date.now() - new Date(camera.last_at);
  if (camera.last_error && new Date(camera.last_error.at) > new Date(camera.last_at)) return ["bad", "last request failed"];
  return age < QUIET_MS ? ["good", "active"] : ["", "quiet"];
}

function dot(camera) {
  const [kind, text] = health(camera);
  return el("span", {class: `pill ${kind}`, title: text}, el("span", {class: "dot"}), el("span", {class: "visually-hidden"}, text));
}

const dayCurve = (camera, height) => curve(camera.curve, {
  height,
  label: `${count(camera.answers)} answers in the last 24 hours, at most ${count(Math.max(...camera.curve))} in a quarter of an hour`,
});

const cell = (name, ...children) => el("td", {"data-name": name}, ...children);
const number = (name, text, kind = "") => el("td", {class: `number ${kind}`, "data-name": name}, text);

function row(camera) {
  return el("tr", {},
    el("th", {scope: "row"}, dot(camera), el("a", {href: `#/fleet/${encodeURIComponent(camera.camera)}`}, camera.camera)),
    cell("Last answer", camera.last_at ? el("time", {datetime: camera.last_at, title: clock(new Date(camera.last_at))}, ago(new Date(camera.last_at))) : "–"),
    number("Answers a minute", rate(camera)),
    el("td", {class: "wide", "data-name": "Last 24 hours"}, dayCurve(camera, 28)),
    number("Answers", count(camera.answers)),
    number("Bytes each", perAnswer(camera)),
    number("Errors", count(camera.errors), camera.errors ? "bad-text" : ""),
    cell("Bundle", camera.bundle ? el("code", {}, camera.bundle) : "–", camera.wanted ? el("span", {class: "muted"}, " should run ", el("code", {}, camera.wanted)) : ""));
}

function table(cameras) {
  const numbers = ["A minute", "Answers", "Bytes each", "Errors"];
  const heads = ["Camera", "Last answer", "A minute", "Last 24 hours", "Answers", "Bytes each", "Errors", "Bundle"];
  return el("div", {class: "card flush"}, el("table", {class: "list"},
    el("caption", {class: "visually-hidden"}, "Cameras, the one that answered last first"),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", {scope: "col", class: numbers.includes(head) ? "number" : ""}, head)))),
    el("tbody", {}, cameras.map(row))));
}

function empty(search) {
  if (search) return el("div", {class: "card empty-state"}, el("h2", {}, "No camera found"), el("p", {class: "muted"}, "No camera’s name holds this text."));
  return el("div", {class: "card empty-state"}, el("h2", {}, "No camera yet"),
    el("p", {class: "muted"}, "A camera appears here with its first answer. One from this machine:"),
    el("pre", {}, el("code", {}, `curl --data-binary @room.png -H 'Content-Type: image/png' \\\n  -H 'X-Camera: door' ${location.origin}/analyze`)));
}

class Fleet {
  constructor() {
    this.timer = 0;
    this.name = "";
    byId("fleet-search").addEventListener("input", debounced(() => this.refresh(), 150));
  }

  show([name = ""]) {
    this.name = name;
    this.shown = true;
    byId("fleet-list").hidden = Boolean(name);
    byId("fleet-camera").hidden = !name;
    if (name) this.openCamera(name);
    else this.refresh();
  }

  hide() {
    this.shown = false;
    clearTimeout(this.timer);
  }

  again(work) {
    clearTimeout(this.timer);
    if (this.shown) this.timer = setTimeout(work, REFRESH_MS);
  }

  async refresh() {
    const search = byId("fleet-search").value.trim();
    const query = new URLSearchParams({search, limit: LISTED});
    try {
      const [fleet, rollout] = await Promise.all([getJson(`/v1/fleet?${query}`), getJson("/admin/rollout")]);
      if (search !== byId("fleet-search").value.trim()) return;
      say(byId("fleet-error"), "");
      fillRollout(byId("fleet-rollout"), rollout);
      this.fill(fleet, search);
    } catch (error) {
      if (error.status !== 0) say(byId("fleet-error"), explain(error)); // the header says that the server is away
    }
    if (!this.name) this.again(() => this.refresh());
  }

  fill(fleet, search) {
    const answers = fleet.cameras.reduce((sum, camera) => sum + camera.answers, 0);
    const shown = fleet.cameras.length < fleet.total ? `, the ${fleet.cameras.length} that answered last are shown` : "";
    const cameras = `${count(fleet.total)} camera${fleet.total === 1 ? "" : "s"}${search ? " found" : ""}`;
    byId("fleet-note").textContent = fleet.total
      ? `${cameras}${shown}; ${count(answers)} answers in the last 24 hours${fleet.archived ? "" : "; nothing is archived"}`
      : "";
    // A focused link keeps its focus while the table is made anew.
    const focused = document.activeElement?.getAttribute("href");
    byId("fleet-body").replaceChildren(fleet.cameras.length ? table(fleet.cameras) : empty(search));
    if (focused?.startsWith("#/fleet/")) document.querySelector(`#fleet-body a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  openCamera(name) {
    this.view = new CameraView(name, byId("fleet-camera"));
    const look = async () => {
      if (this.name !== name || !this.shown) return;
      await this.view.refresh();
      this.again(look);
    };
    look();
    this.view.older();
  }
}

class CameraView {
  constructor(name, place) {
    this.name = name;
    this.before = null;
    this.path = `/v1/fleet/${encodeURIComponent(name)}`;
    this.facts = el("div", {class: "facts"});
    this.curve = el("div", {class: "card"});
    this.error = el("p", {class: "notice bad", role: "alert", hidden: true});
    this.records = el("ol", {class: "records", "aria-label": "Archived frames, newest first"});
    this.note = el("p", {class: "muted", role: "status"}, "Reading the archive …");
    this.more = el("button", {type: "button", hidden: true, onclick: () => this.older()}, "Older frames");
    place.replaceChildren(
      el("p", {}, el("a", {href: "#/fleet"}, "← All cameras")),
      el("div", {class: "page-head"}, el("h1", {}, name), el("a", {class: "button", href: `#/ask/${encodeURIComponent(name)}`}, "Ask about this camera")),
      this.error, this.facts, this.curve,
      el("section", {class: "card", "aria-labelledby": "records-title"},
        el("h2", {id: "records-title"}, "Archived frames and their answers"), this.note, this.records, this.more));
  }

  async refresh() {
    try {
      const camera = await getJson(this.path);
      say(this.error, "");
      this.fill(camera);
    } catch (error) {
      if (error.status !== 0) say(this.error, explain(error));
    }
  }

  fill(camera) {
    const fact = (label, value, kind = "") => el("div", {class: "fact"}, el("span", {class: "muted"}, label), el("strong", {class: kind}, value));
    this.facts.replaceChildren(
      fact("Last answer", camera.last_at ? ago(new Date(camera.last_at)) : "–"),
      fact("Answers a minute", rate(camera)),
      fact("Answers in 24 h", count(camera.answers)),
      fact("Bytes each", perAnswer(camera)),
      fact("Errors in 24 h", count(camera.errors), camera.errors ? "bad-text" : ""),
      fact("Bundle", camera.wanted ? `${camera.bundle}, should run ${camera.wanted}` : camera.bundle || "–"));
    const failed = camera.last_error;
    this.curve.replaceChildren(
      el("h2", {}, "Answers over the last 24 hours"),
      dayCurve(camera, 80),
      el("div", {class: "ends"}, el("span", {}, "24 hours ago"), el("span", {}, "now")),
      failed ? el("p", {class: "notice warn"}, `Last error, ${ago(new Date(failed.at))}: ${failed.title}${failed.detail ? `: ${failed.detail}` : ""}`) : "");
  }

  async older() {
    this.more.disabled = true;
    const query = new URLSearchParams({limit: PAGE});
    if (this.before !== null) query.set("before", this.before);
    try {
      const records = await getJson(`${this.path}/records?${query}`);
      this.records.append(...records.map((record) => this.record(record)));
      if (records.length) this.before = records.at(-1).id;
      this.more.hidden = records.length < PAGE;
      this.note.textContent = this.records.children.length ? "" : "The archive has nothing of this camera.";
    } catch (error) {
      this.note.textContent = explain(error);
    }
    this.note.hidden = !this.note.textContent;
    this.more.disabled = false;
  }

  record(record) {
    const at = new Date(record.captured_at ?? record.received_at);
    const answers = record.error
      ? el("p", {class: "bad-text"}, record.error)
      : el("dl", {class: "answers"}, Object.entries(record.views).map(([task, view]) =>
        el("div", {}, el("dt", {}, capital(task)), el("dd", {}, short(view)))));
    const maps = el("div", {class: "maps", hidden: true});
    const button = el("button", {type: "button", class: "quiet", "aria-expanded": "false"}, "Maps");
    button.addEventListener("click", () => this.maps(record, button, maps));
    const head = el("div", {class: "record-head"},
      el("time", {datetime: at.toISOString(), title: ago(at)}, clock(at)),
      el("span", {class: "muted"}, [bytes(record.bytes), record.frame && `frame ${record.frame}`, record.quality !== undefined && `quality ${record.quality}`].filter(Boolean).join(" · ")),
      record.error ? null : button);
    return el("li", {}, head, answers, maps);
  }

  async maps(record, button, place) {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    place.hidden = open;
    if (open || place.children.length) return;
    try {
      const whole = await getJson(`${this.path}/records/${record.id}`);
      const drawn = Object.entries(whole.views).filter(([, view]) => view.image).map(([task, view]) => mapFigure(task, view));
      place.replaceChildren(...(drawn.length ? drawn : [el("p", {class: "muted"}, "No task of this bundle has a map.")]));
    } catch (error) {
      place.replaceChildren(el("p", {class: "notice bad"}, explain(error)));
    }
  }
}

// A view's first line, without what nobody reads in a list.
function short(view) {
  const [line = ""] = view.lines;
  return view.lines.length > 1 ? view.lines.slice(0, 2).join(", ") : line.split(";")[0].split(", ").slice(0, 4).join(", ");
}

function mapFigure(task, view) {
  const image = el("img", {alt: `${capital(task)} of the frame`, width: 224, height: 224});
  const url = URL.createObjectURL(blobOf(view.image));
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  image.src = url;
  return el("figure", {}, image, el("figcaption", {}, capital(task)));
}

export const startFleet = () => new Fleet();
