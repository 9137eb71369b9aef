// The rollout of a bundle, above the fleet: how far it is, and both bundles side by side.

import {ago, bytes, count, el, milliseconds} from "./dom.js";

const orDash = (value, form) => (value === null || value === undefined ? "–" : form(value));
const share = (value) => `${(100 * value).toFixed(1)} %`;
const number = (name, text, kind = "") => el("td", {class: `number ${kind}`, "data-name": name}, text);

function table(caption, heads, rows) {
  return el("table", {class: "list"},
    el("caption", {class: "visually-hidden"}, caption),
    el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", {scope: "col", class: i ? "number" : ""}, head)))),
    el("tbody", {}, rows));
}

function figures(state) {
  const names = ["before", state.plan.back ? "taken back" : "rolled out"];
  return table("Both bundles side by side", ["Bundle", "Cameras", "Requests", "Errors", "Bytes each", "Median", "95 %"],
    state.figures.map((one, i) => el("tr", {},
      el("th", {scope: "row"}, el("code", {}, one.bundle), ` ${names[i]}`),
      number("Cameras", count(one.cameras)),
      number("Requests", count(one.requests)),
      number("Errors", `${count(one.errors)} (${share(one.error_share)})`, one.errors ? "bad-text" : ""),
      number("Bytes each", orDash(one.bytes_mean, (value) => bytes(Math.round(value)))),
      number("Median", orDash(one.p50_ms, milliseconds)),
      number("95 %", orDash(one.p95_ms, milliseconds)))));
}

function agreement(state) {
  if (!state.agreement.length) return el("p", {class: "muted"}, "No camera has changed over between two frames yet, so nothing says how far both answer alike.");
  return [
    table("How far frames in a row are answered alike", ["Task", "Across a switch", "Switches", "Without one", "Pairs"],
      state.agreement.map((one) => el("tr", {},
        el("th", {scope: "row"}, one.task),
        number("Across a switch", orDash(one.across, share)),
        number("Switches", count(one.switches)),
        number("Without one", orDash(one.before, share)),
        number("Pairs", count(one.pairs))))),
    el("p", {class: "fine"}, "A camera’s last frame with one bundle and its first with the other, against two frames in a row with the bundle before."),
  ];
}

function summary({plan}) {
  const code = el("code", {}, plan.bundle.slice(0, 8));
  if (plan.back) return el("p", {class: "notice warn"}, code, ` was taken back: ${plan.reason}`);
  const to = [plan.share === 1 ? "all cameras" : plan.share ? `${share(plan.share)} of the cameras` : "", ...plan.cameras].filter(Boolean).join(", ");
  return el("p", {}, code, ` goes to ${to || "cameras that you do not see"} since ${ago(new Date(plan.started))}; more than ${share(plan.errors_max)} more errors take it back.`);
}

// Fills the card, or hides it where nothing is rolled out.
export function fillRollout(place, state) {
  place.hidden = !state?.plan;
  if (place.hidden) return;
  const troubles = Object.entries(state.troubles);
  place.replaceChildren(...[
    el("h2", {id: "rollout-title"}, "Rollout"),
    summary(state),
    figures(state),
    agreement(state),
    troubles.length ? el("ul", {"aria-label": "Cameras that do not run what they should"}, troubles.map(([camera, why]) => el("li", {}, el("strong", {}, camera), `: ${why}`))) : [],
  ].flat());
}
