/**
 * Sending a request from the page /docs, with the visitor's token, and showing the answer: a form for each operation,
 * made when it is opened. What comes back is shown as text.
 *
 * @module
 */

import { Session } from "./account/session.js";
import { $, element, forget, recall, remember } from "./page.js";

/** Of an answer that does not end, so much is shown. Characters. */
const SHOWN = 20_000;

/** Who is signed in on this server's pages: its token is taken where none is given. */
const session = new Session();
const tokens = $("token");
const whose = () => (tokens.placeholder = session.user === null ? "none: as a guest" : `none: as ${session.user}, who is signed in`);
session.onchange = whose;
whose();
tokens.value = recall("sessionStorage", "docs.token") ?? "";
$("who").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
tokens.addEventListener("input", () => {
  if (tokens.value) remember("sessionStorage", "docs.token", tokens.value);
  else forget("sessionStorage", "docs.token");
});

/**
 * @param {{example: (schema: any) => any, request: (schema: any) => any, resolve: (thing: any) => any}} api
 * @param {string} path @param {string} method @param {any} operation
 */
export function tryIt(api, path, method, operation) {
  const details = element("details", "try", element("summary", "", "Send it from here"));
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(...form(api, path, method, operation)));
  return details;
}

/** @param {any} api @param {string} path @param {string} method @param {any} operation */
function form(api, path, method, operation) {
  const made = element("form", "request");
  /** @type {{one: any, input: HTMLInputElement}[]} */
  const fields = [];
  for (const one of operation.parameters) {
    const input = element("input");
    const example = api.example(one.schema);
    const written = [example].flat().join(" ");
    const wanted = one.in === "path" || one.required;
    input.name = one.name;
    input.required = wanted;
    input.autocomplete = "off";
    input.spellcheck = false;
    if (wanted && written !== "…") input.value = written;
    else if (written !== "…" && one.in !== "header") input.placeholder = written;
    fields.push({ one, input });
    made.append(element("label", "", element("code", "", one.name), input));
  }
  const schema = operation.requestBody?.content["application/json"]?.schema;
  const body = schema ? element("textarea") : null;
  if (body) {
    body.value = JSON.stringify(api.request(schema), null, 2);
    body.rows = Math.min(12, body.value.split("\n").length + 1);
    body.spellcheck = false;
    body.name = "body";
    made.append(element("label", "wide-field", element("code", "", "body"), body));
  }
  const send = element("button", "primary", "Send");
  const answer = element("div", "answer");
  answer.role = "status";
  made.append(send);
  /** @type {AbortController | null} */
  let running = null;
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    send.textContent = "Stop";
    try {
      await exchange(answer, address(path, fields), method, await headers(fields, body), body?.value, running.signal);
    } finally {
      running = null;
      send.textContent = "Send";
    }
  });
  return [made, answer];
}

/** @param {string} path @param {{one: any, input: HTMLInputElement}[]} fields */
function address(path, fields) {
  const query = new URLSearchParams();
  for (const { one, input } of fields) {
    const { value } = input;
    if (one.in === "path") path = path.replace(`{${one.name}}`, encodeURIComponent(value).replaceAll("%3A", ":"));
    else if (one.in === "query" && value !== "") {
      const values = one.schema.type === "array" ? value.split(/[\s,]+/).filter(Boolean) : [value];
      for (const single of values) query.append(one.name, single);
    }
  }
  return query.size ? `${path}?${query}` : path;
}

/** @param {{one: any, input: HTMLInputElement}[]} fields @param {HTMLTextAreaElement | null} body */
async function headers(fields, body) {
  /** @type {Record<string, string>} */
  const made = {};
  const token = tokens.value.trim() || (await session.token().catch(() => null)); // who is no longer signed in is a guest
  if (token) made.Authorization = `Bearer ${token}`;
  if (body) made["Content-Type"] = "application/json";
  for (const { one, input } of fields) if (one.in === "header" && input.value) made[one.name] = input.value;
  return made;
}

/**
 * @param {HTMLElement} place @param {string} url @param {string} method @param {Record<string, string>} headers
 * @param {string | undefined} body @param {AbortSignal} signal
 */
async function exchange(place, url, method, headers, body, signal) {
  const line = element("p", "", "Waiting for an answer…");
  const shown = element("pre");
  shown.tabIndex = 0;
  place.replaceChildren(element("p", "sent", element("code", "", `${method.toUpperCase()} ${url}`)), line);
  const began = performance.now();
  try {
    const answer = await fetch(url, { method: method.toUpperCase(), headers, body, signal });
    const took = performance.now() - began;
    const status = element("b", `status s${String(answer.status)[0]}`, String(answer.status));
    line.replaceChildren(status, ` ${answer.statusText} · ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`);
    const told = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    const about = element("details", "", element("summary", "", "Headers"), element("pre", "", told));
    place.append(about, shown);
    await read(answer, shown);
    if (!shown.textContent) shown.remove();
  } catch (/** @type {any} */ error) {
    if (error.name === "AbortError") line.append(line.textContent?.startsWith("Waiting") ? " stopped." : " · stopped");
    else line.replaceChildren(element("b", "status s5", "No answer"), ` ${error.message}`);
  }
}

/** As it comes: an event stream has no end. @param {Response} answer @param {HTMLElement} shown */
async function read(answer, shown) {
  if (answer.headers.get("Content-Type")?.includes("json")) {
    const text = await answer.text();
    try {
      shown.textContent = JSON.stringify(JSON.parse(text), null, 2).slice(0, SHOWN);
    } catch {
      shown.textContent = text.slice(0, SHOWN);
    }
    return;
  }
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const piece = await reader?.read();
    if (!piece || piece.done) return;
    shown.textContent = `${shown.textContent}${piece.value}`.slice(-SHOWN);
  }
}
