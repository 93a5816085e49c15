/** Single requests over plain HTTP. @module */

import { WaterspoutError } from "./tools.js";

/** No answer came: nobody was reached, or it took too long. Whatever else goes wrong is the request's own. */
export class Unanswered extends Error {}

/** Requests at a time, as in browsers. Node would open a connection for each, and the server counts them by address. */
const AT_ONCE = 6;

/** Requests to one server, with the token of the moment. */
export class Requests {
  #base;
  #limit;
  #over = new AbortController();
  #running = 0;
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {string | undefined} */
  token;

  /** @param {string} base  the address before `/v1/…` @param {number} patience  in ms */
  constructor(base, patience) {
    this.#base = base;
    this.#limit = patience + 12_000; // the server decides a publish within 10 s
  }

  close() {
    this.#over.abort();
  }

  /**
   * @param {string} method @param {string} path
   * @param {{query?: Record<string, any>, body?: any, headers?: Record<string, string>, patient?: boolean}} [options]
   *   `patient`: how long it may take, it is not told
   */
  async json(method, path, { query = {}, body, headers = {}, patient = false } = {}) {
    const given = Object.entries(query)
      .flatMap(([name, value]) => [value].flat().map((one) => [name, one]))
      .filter(([, value]) => value !== undefined && value !== null);
    const url = given.length ? `${path}?${new URLSearchParams(given)}` : path;
    if (this.#running >= AT_ONCE) await new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
    else this.#running += 1;
    try {
      const over = this.#over.signal;
      const signal = patient ? over : AbortSignal.any([over, AbortSignal.timeout(this.#limit)]);
      const response = await this.fetch(method, url, { signal, headers, body });
      return response.status === 204 ? null : await answered(response.json());
    } finally {
      const next = this.#waiting.shift();
      if (next) next(); // who has waited runs in our place
      else this.#running -= 1;
    }
  }

  /**
   * The response, if it is one of success; WaterspoutError if it is not, Unanswered if there is none.
   *
   * @param {string} method @param {string} url
   * @param {{body?: any, headers?: Record<string, string>, signal: AbortSignal}} options  `body`: sent as JSON
   * @returns {Promise<any>}
   */
  async fetch(method, url, { headers, body, signal }) {
    // Made first: what cannot be said in a request (a header has Latin letters only) is no failure of the network.
    const request = new Request(this.#base + url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal,
    });
    if (body !== undefined) request.headers.set("Content-Type", "application/json");
    if (this.token !== undefined) request.headers.set("Authorization", `Bearer ${this.token}`);
    const response = await answered(fetch(request));
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    if (typeof problem?.code === "string") throw new WaterspoutError(problem);
    // A proxy's own page: nothing is known of what became of the command.
    const { status } = response;
    const after = Number.parseFloat(response.headers.get("Retry-After") ?? "");
    const retry = status >= 500 || status === 429 || status === 408;
    throw new WaterspoutError({ code: "unavailable", reason: `HTTP ${status}`, retry, retry_after: after });
  }
}

/** @template T @param {Promise<T>} answer @returns {Promise<T>} */
function answered(answer) {
  return answer.catch((error) => {
    throw new Unanswered(String(error));
  });
}

/**
 * A name as a part of a path. `.` and `..` would be taken for steps in it, in whatever way they are written.
 *
 * @param {string} field @param {string} name
 */
export function segment(field, name) {
  if (["", ".", ".."].includes(name)) {
    throw new WaterspoutError({ code: "bad_request", reason: `${field}: "${name}" cannot stand in a URL` });
  }
  return encodeURIComponent(name);
}

/** When a JSON Web Token expires, in seconds since 1970; null where it does not say.
 *
 * @param {string | undefined} token */
export function expiry(token) {
  const { exp } = claims(token);
  return Number.isFinite(exp) ? exp : null;
}

/** The channels that a JSON Web Token subscribes to, and where each begins.
 *
 * @param {string | undefined} token @returns {Record<string, {after?: string, last?: number} | null>} */
export function subscriptions(token) {
  const { subscribe = {} } = claims(token);
  return Array.isArray(subscribe) ? Object.fromEntries(subscribe.map((channel) => [channel, null])) : subscribe;
}

/** What a JSON Web Token says; nothing, if it is none. @param {string | undefined} token @returns {any} */
export function claims(token) {
  try {
    const part = String(token).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {}; // an API key, or none at all
  }
}

/** @param {number} ms @returns {Promise<void>} */
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
