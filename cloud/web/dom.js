// Elements, numbers and words. Text only ever becomes text nodes.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// Sets attributes and listeners: {class: "x", onclick: f, disabled: true}; null, undefined and false leave one out.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A message that appears and goes: an empty one hides its place.
export function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});

export const count = (number) => whole.format(number);

export const decimals = (number, digits) => number.toFixed(digits);

export const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

export function bytes(number) {
  if (number < 10_000) return `${count(number)} B`;
  return number < 1e6 ? `${decimals(number / 1e3, 1)} kB` : `${decimals(number / 1e6, 1)} MB`;
}

export function milliseconds(ms) {
  if (ms >= 1000) return `${decimals(ms / 1000, 2)} s`;
  return `${decimals(ms, ms < 10 ? 1 : 0)} ms`;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1).replaceAll("_", " ").replaceAll("-", " ");

const RELATIVE = new Intl.RelativeTimeFormat("en", {numeric: "auto"});

export function ago(date, now = Date.now()) {
  const seconds = (date.getTime() - now) / 1000;
  for (const [unit, size] of [["day", 86_400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return RELATIVE.format(Math.round(seconds / size), unit);
  }
  return Math.abs(seconds) < 10 ? "just now" : `${Math.round(-seconds)} seconds ago`;
}

export const clock = (date) =>
  date.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "medium"});

// Calls `work` once things have been quiet for `ms`.
export function debounced(work, ms) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
}

export function blobOf(png) {
  const text = atob(png.base64);
  const data = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) data[i] = text.charCodeAt(i);
  return new Blob([data], {type: png.media_type});
}

// The choices of a <select> of bundles; what was chosen stays.
export function fillBundles(select, bundles) {
  const chosen = select.value;
  select.replaceChildren(...bundles.map(({name, fingerprint}) => el("option", {value: fingerprint}, `${name} (${fingerprint})`)));
  if (bundles.some(({fingerprint}) => fingerprint === chosen)) select.value = chosen;
}
