// The frame: which page is open, whether the server answers, signing in and out. Each page has a file of its own.

import {events, getJson, request, token} from "./api.js";
import {startAnalyse} from "./analyse.js";
import {startAsk} from "./ask.js";
import {byId, say} from "./dom.js";
import {startFleet} from "./fleet.js";
import {startTheme} from "./theme.js";

const LOOK_MS = 5000;
const TITLES = {analyse: "Analyse", fleet: "Fleet", ask: "Ask"};

const pages = {analyse: startAnalyse(byId("page-analyse")), fleet: startFleet(), ask: startAsk()};

function open() {
  const [, name = "", ...rest] = location.hash.split("/");
  const page = name in pages ? name : "analyse";
  for (const other of Object.keys(pages)) {
    byId(`page-${other}`).hidden = other !== page;
    if (other !== page) pages[other].hide();
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[page]} · Isthmus`;
  pages[page].show(rest.map(decodeURIComponent));
}

// The server, as the pill in the header says it.

function state(kind, text) {
  byId("server").className = `pill ${kind}`;
  byId("server-text").textContent = text;
}

async function look() {
  try {
    const ready = await getJson("/readyz", {quiet: true});
    const troubles = Object.entries(ready.troubles ?? {});
    byId("server").title = troubles.map(([part, why]) => `${part}: ${why}`).join("\n");
    if (troubles.length) state("warn", `Ready, ${troubles.length === 1 ? "one trouble" : `${troubles.length} troubles`}`);
    else state("good", "Ready");
    if (!signIn.open) pages.analyse.ready();
  } catch (problem) {
    if (problem.status === 503) state("warn", "Loading");
    else if (problem.status) state("bad", problem.title);
  }
  setTimeout(look, LOOK_MS);
}

events.addEventListener("away", () => {
  state("bad", "Away");
  say(byId("away"), "The server does not answer. What you see is from before; this page goes on as soon as it is back.");
});

events.addEventListener("back", () => {
  say(byId("away"), "");
});

// Signing in: only where the server asks for it.

const signIn = byId("sign-in");

events.addEventListener("refused", ({detail}) => {
  if (signIn.open) return;
  say(byId("sign-in-error"), token.get() ? `${detail.message}. Try another token.` : "");
  token.clear();
  byId("sign-out").hidden = true;
  signIn.showModal();
  byId("token").focus();
});

// Escape does not help: there is nothing to see without a token.
signIn.addEventListener("cancel", (event) => event.preventDefault());
signIn.addEventListener("close", () => {
  if (!token.get()) signIn.showModal();
});

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  try {
    await request("/v1/bundles", {quiet: true});
  } catch (problem) {
    // 403: a known token that may do other things; the pages say what it may not.
    if (problem.status !== 403 && problem.status !== 503) {
      token.clear();
      say(byId("sign-in-error"), problem.status === 401 ? "The server does not know this token." : problem.message);
      return;
    }
  }
  byId("token").value = "";
  say(byId("sign-in-error"), "");
  signIn.close();
  signedIn();
});

function signedIn() {
  byId("sign-out").hidden = !token.get();
  pages.analyse.ready();
  open();
}

byId("sign-out").addEventListener("click", () => {
  token.clear();
  location.reload();
});

startTheme(byId("theme"));
addEventListener("hashchange", () => {
  open();
  byId("main").focus({preventScroll: true});
});
byId("sign-out").hidden = !token.get();
open();
look();
