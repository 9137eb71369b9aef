// Every request to the server goes through here: the token, problems as errors, and whether the server answers at all.

const KEY = "isthmus.token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

// "away" and "back" as the server goes and comes; "refused" when it asks for a token, or for another one.
export const events = new EventTarget();

let away = false;

function reachable(now) {
  if (now === !away) return;
  away = !now;
  events.dispatchEvent(new Event(away ? "away" : "back"));
}

export class Problem extends Error {
  constructor(status, title, detail, retryAfter = 0) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
    this.title = title;
    this.retryAfter = retryAfter;
  }
}

// What an error says to whoever looks at the page; empty for a request that was cancelled.
export function explain(error) {
  if (error.name === "AbortError") return "";
  return error instanceof Problem ? error.message : `Unexpected: ${error.message}`;
}

async function problemOf(response) {
  const retry = Number(response.headers.get("Retry-After")) || 0;
  try {
    const problem = await response.json();
    return new Problem(response.status, problem.title, problem.detail, retry);
  } catch {
    return new Problem(response.status, `The server answered ${response.status}`, "", retry);
  }
}

// The response of a request that the server took. Throws Problem, or AbortError where `signal` says so.
export async function request(path, {method = "GET", body, type, signal, quiet = false} = {}) {
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (type) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, {method, body, headers, signal, cache: "no-store", credentials: "omit"});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reachable(false);
    throw new Problem(0, "The server does not answer", "check that it runs, and that you are connected");
  }
  reachable(true);
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (response.status === 401 && !quiet) events.dispatchEvent(new CustomEvent("refused", {detail: problem}));
  throw problem;
}

export const getJson = async (path, options) => (await request(path, options)).json();

export const postJson = async (path, value, options = {}) =>
  (await request(path, {...options, method: "POST", body: JSON.stringify(value), type: "application/json"})).json();
