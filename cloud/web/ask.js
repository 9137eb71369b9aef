// A new question to the archive: a task and a time, the replay's progress, and its results.

import {explain, getJson, postJson, request} from "./api.js";
import {bars} from "./charts.js";
import {byId, capital, clock, count, el, fillBundles, say} from "./dom.js";

const LOOK_MS = 700;
const STATES = {running: "Running", done: "Done", cancelled: "Cancelled", failed: "Failed"};

// What a field of type datetime-local holds: local time, to the second.
function local(date) {
  const moved = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return moved.toISOString().slice(0, 19);
}

class Ask {
  constructor() {
    this.timer = 0;
    this.replay = null;
    byId("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    byId("ask-bundle").addEventListener("change", () => this.fillTasks());
    for (const button of document.querySelectorAll(".presets button")) {
      button.addEventListener("click", () => this.span(Number(button.dataset.hours)));
    }
    this.span(24);
    this.build();
  }

  build() {
    this.parts = {
      state: el("h2", {}), note: el("p", {class: "muted", role: "status"}), progress: el("progress", {max: 1, value: 0, "aria-label": "Progress of the replay"}),
      cancel: el("button", {type: "button", onclick: () => this.cancel()}, "Cancel"),
      save: el("button", {type: "button", onclick: () => this.save()}, "Save all lines"),
      why: el("p", {class: "notice bad", role: "alert", hidden: true}),
      labels: el("div", {}), lines: el("div", {}),
    };
    const {state, note, progress, cancel, save, why, labels, lines} = this.parts;
    this.card = el("section", {class: "card", "aria-label": "Replay"},
      el("div", {class: "card-head"}, state, el("div", {class: "row"}, cancel, save)), progress, note, why, labels);
    this.lines = el("section", {class: "card flush", "aria-label": "Newest answers"}, lines);
  }

  span(hours) {
    const now = new Date();
    byId("ask-since").value = local(new Date(now.getTime() - hours * 3_600_000));
    byId("ask-until").value = local(new Date(now.getTime() + 1000));
  }

  async show([camera]) {
    this.shown = true;
    if (camera !== undefined) byId("ask-camera").value = camera;
    if (!this.replay) {
      byId("ask-replay").replaceChildren(el("div", {class: "card empty-state"}, el("h2", {}, "No replay yet"),
        el("p", {class: "muted"}, "Choose a task and a time. One replay runs at a time, behind the cameras.")));
    }
    try {
      const [bundles, fleet, [last]] = await Promise.all([getJson("/v1/bundles"), getJson("/v1/fleet?limit=500"), getJson("/v1/replays")]);
      this.bundles = bundles;
      fillBundles(byId("ask-bundle"), bundles);
      byId("ask-bundle-choice").hidden = bundles.length < 2;
      this.fillTasks();
      byId("ask-cameras").replaceChildren(...fleet.cameras.map((one) => el("option", {value: one.camera})));
      byId("ask-start").disabled = !fleet.archived;
      say(byId("ask-error"), fleet.archived ? "" : "This server keeps no archive; start it with --archive DIR.");
      if (last) this.fill(last);
    } catch (error) {
      say(byId("ask-error"), explain(error));
    }
  }

  fillTasks() {
    const bundle = this.bundles.find(({fingerprint}) => fingerprint === byId("ask-bundle").value) ?? this.bundles[0];
    const select = byId("ask-task");
    const chosen = select.value;
    select.replaceChildren(...bundle.tasks.map((task) => el("option", {value: task.name}, capital(task.name))));
    if (bundle.tasks.some((task) => task.name === chosen)) select.value = chosen;
  }

  hide() {
    this.shown = false;
    clearTimeout(this.timer);
  }

  async start() {
    const question = {
      bundle: byId("ask-bundle").value,
      task: byId("ask-task").value,
      camera: byId("ask-camera").value.trim(),
      since: new Date(byId("ask-since").value).toISOString(),
      until: new Date(byId("ask-until").value).toISOString(),
    };
    say(byId("ask-error"), "");
    byId("ask-start").disabled = true;
    try {
      this.fill(await postJson("/v1/replays", question));
    } catch (error) {
      byId("ask-start").disabled = false;
      say(byId("ask-error"), explain(error));
    }
  }

  async look() {
    try {
      this.fill(await getJson(`/v1/replays/${this.replay.id}`));
    } catch (error) {
      say(this.parts.why, explain(error));
      if (error.status !== 404) this.later();
      else byId("ask-start").disabled = false;
    }
  }

  later() {
    clearTimeout(this.timer);
    if (this.shown) this.timer = setTimeout(() => this.look(), LOOK_MS);
  }

  async cancel() {
    try {
      this.fill(await request(`/v1/replays/${this.replay.id}`, {method: "DELETE"}).then((answer) => answer.json()));
    } catch (error) {
      say(this.parts.why, explain(error));
    }
  }

  async save() {
    try {
      const answer = await request(`/v1/replays/${this.replay.id}/results`);
      const url = URL.createObjectURL(await answer.blob());
      el("a", {href: url, download: `replay-${this.replay.question.task}.jsonl`}).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) {
      say(this.parts.why, explain(error));
    }
  }

  fill(replay) {
    this.replay = replay;
    const parts = this.parts;
    const done = replay.answered + replay.failed;
    const running = replay.state === "running";
    const {task, camera, since, until} = replay.question;
    parts.state.textContent = `${STATES[replay.state]}: ${capital(task)}`;
    parts.progress.max = Math.max(replay.total, done, 1);
    parts.progress.value = running ? done : replay.state === "done" ? parts.progress.max : done;
    const errors = Object.entries(replay.errors).map(([title, number]) => `${count(number)} ${title.toLowerCase()}`).join(", ");
    parts.note.textContent =
      `${count(done)} of ${count(replay.total)} frames of ${camera || "all cameras"}, ${clock(new Date(since))} to ${clock(new Date(until))}` +
      (errors ? `; without an answer: ${errors}` : "") + (replay.whole ? "" : "; the file of lines is cut off at its limit");
    say(parts.why, replay.why);
    parts.cancel.hidden = !running;
    parts.save.hidden = running || !done;
    const rows = replay.labels.slice(0, 12).map(({label, count: number}) => ({label, value: number, text: count(number), kind: "ours"}));
    parts.labels.replaceChildren(rows.length ? bars(rows, {label: "Frames by their best label"}) : "");
    parts.lines.replaceChildren(table(replay.newest));
    byId("ask-replay").replaceChildren(this.card, ...(replay.newest.length ? [this.lines] : []));
    byId("ask-start").disabled = running;
    if (running) this.later();
  }
}

function table(lines) {
  return el("table", {class: "list lines"},
    el("caption", {class: "visually-hidden"}, "The newest answers"),
    el("thead", {}, el("tr", {}, ["Time", "Camera", "Answer"].map((head) => el("th", {scope: "col"}, head)))),
    el("tbody", {}, lines.slice(0, 30).map((line) => el("tr", {},
      el("td", {"data-name": "Time"}, clock(new Date(line.at))),
      el("td", {"data-name": "Camera"}, line.camera),
      el("td", {class: line.error ? "bad-text wide" : "wide", "data-name": "Answer"}, line.error || line.lines.slice(0, 3).join(", "))))));
}

export const startAsk = () => new Ask();
