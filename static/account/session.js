/**
 * Who is signed in, with an account of this server: the tokens, kept for all tabs of this browser, and refreshed in
 * time, by one tab at a time, since each refresh token is good once.
 *
 * @module
 */

import { forget, recall, remember } from "../page.js";
import { claims } from "../waterspout/requests.js";

/** @typedef {{guests: boolean, accounts: boolean, mail: boolean, providers: {name: string, title: string}[], passkeys: string | null, examples: string[]}} Ways */
/** @typedef {{user: string, token: string, refresh_token: string, until: number}} Kept */

const KEY = "account";
/** A token is not handed out with less left than this, since a connection wants another one a minute before the end. */
const LEFT = 120_000;
/** Without Web Locks (a page that came over plain HTTP) tabs could not take turns, so that each has its own sign-in. */
const STORAGE = "locks" in navigator ? "localStorage" : "sessionStorage";

const ELSEWHERE = "elsewhere";
/**
 * Why somebody comes back without having signed in. What stands in the address anybody may have put there, so nothing of
 * it is shown: only which of these it is.
 */
const REFUSALS = new Map([
  [": it was refused there", "It was refused there, or you have cancelled it"],
  [": nobody here has this identity", "Nobody here has an account with that identity. Ask an operator for one"],
  [": no name is free", "No name is free for a new account here. Ask an operator for one"],
]);
const FAILED = "Signing in there has not worked. Try again";

/** @param {ArrayBuffer} buffer */
export const base64url = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");

/** What the server says no with. */
export class Refused extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem?.reason ?? `status ${status}`);
    this.status = status;
    /** @type {string} */
    this.code = problem?.code ?? "internal";
    /** Seconds. @type {number | undefined} */
    this.retryAfter = problem?.retry_after;
  }
}

/** One request to the REST API. @param {string} path @param {any} [body] @param {{token?: string | null, method?: string}} [options] @returns {Promise<any>} */
export async function request(path, body, { token = null, method = body === undefined ? "GET" : "POST" } = {}) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  const value = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, value);
  return value;
}

/** One to `/v1/auth…`. @param {string} path @param {any} [body] @param {{token?: string | null, method?: string}} [options] @returns {Promise<any>} */
export const call = (path, body, options) => request(`/v1/auth${path}`, body, options);

export class Session {
  /** Called when another tab has signed in or out. */
  onchange = () => {};

  constructor() {
    addEventListener("storage", (event) => {
      if (event.key !== `waterspout.${KEY}`) return;
      const was = event.oldValue && JSON.parse(event.oldValue).user;
      const is = event.newValue && JSON.parse(event.newValue).user;
      if (was !== is) this.onchange();
    });
  }

  /** @returns {Kept | null} */
  get #kept() {
    const kept = recall(STORAGE, KEY);
    return kept?.token && kept.refresh_token ? kept : null;
  }

  /** @returns {string | null} */
  get user() {
    return this.#kept?.user ?? null;
  }

  /** What the newest token says of the user. @returns {any} */
  get claims() {
    const kept = this.#kept;
    return kept ? claims(kept.token) : {};
  }

  /** @param {any} tokens  as the server has answered them */
  take({ user, token, refresh_token }) {
    const { exp, iat } = claims(token);
    // By this clock, which may be another than the server's.
    remember(STORAGE, KEY, { user, token, refresh_token, until: Date.now() + (exp - iat) * 1000 });
  }

  /** @param {string} path @param {object} body  such as the name and the password */
  async signIn(path, body) {
    this.take(await call(path, body));
  }

  /** Go to where somebody has an account already, and come back to this page. @param {string} provider */
  async goElsewhere(provider) {
    const verifier = base64url(crypto.getRandomValues(new Uint8Array(32)).buffer);
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
    const challenge = base64url(digest);
    const { url } = await call(`/oidc/${provider}`, { return: location.pathname + location.search, challenge });
    remember("sessionStorage", ELSEWHERE, { verifier, hash: location.hash });
    location.assign(url);
  }

  /** Whoever comes back is signed in then; the address is as it was before. @returns {Promise<string>}  why not, if so */
  async comeBack() {
    const [, kind, value] = /^#(sign-in(?:-refused)?)=(.*)/.exec(location.hash) ?? [];
    if (!kind) return "";
    const gone = recall("sessionStorage", ELSEWHERE);
    forget("sessionStorage", ELSEWHERE);
    history.replaceState(null, "", location.pathname + location.search + (gone?.hash ?? ""));
    if (kind !== "sign-in") return [...REFUSALS].find(([end]) => value.endsWith(encodeURIComponent(end)))?.[1] ?? FAILED;
    try {
      await this.signIn("/oidc", { code: value, verifier: gone?.verifier ?? "" });
      return "";
    } catch {
      return FAILED;
    }
  }

  async signOut() {
    const kept = this.#kept;
    forget(STORAGE, KEY);
    if (kept) await call("/logout", { refresh_token: kept.refresh_token }).catch(() => {}); // it ends by itself
  }

  /** A token that is good for a while; of nobody: null. Refused, whoever is signed in is so no longer.
   *
   * @param {string} [spent]  one that the server does not take any more @returns {Promise<string | null>} */
  async token(spent) {
    const kept = this.#kept;
    if (!kept) return null;
    if (kept.token !== spent && kept.until - Date.now() > LEFT) return kept.token;
    if (!("locks" in navigator)) return this.#refresh(kept.token);
    return navigator.locks.request(`waterspout.${KEY}`, () => this.#refresh(kept.token));
  }

  /** @param {string} old */
  async #refresh(old) {
    const kept = this.#kept;
    if (!kept || kept.token !== old) return kept?.token ?? null; // another tab was faster
    try {
      this.take(await call("/refresh", { refresh_token: kept.refresh_token }));
    } catch (/** @type {any} */ error) {
      if (error.status === 401 || error.status === 400) forget(STORAGE, KEY);
      throw error;
    }
    return this.#kept?.token ?? null;
  }
}
