/** The channels that have messages, whether anybody listens or not: by name, in pages. @module */

import { $, element } from "../page.js";
import { ago, count } from "./words.js";

const PAGE = 50;
/** Rows that a page of the console takes well; who wants others says how they begin. */
const MOST = 1000;

/** @typedef {(path: string) => Promise<any>} Call  a request with the operator's rights */

export class Stored {
  #call;
  /** @type {string | null} */
  #next = null;
  #off = new AbortController();
  /** Whether these are looked at, and not the open ones. */
  shown = false;

  /** @param {Call} call @param {() => void} showOpen */
  constructor(call, showOpen) {
    this.#call = call;
    const { signal } = this.#off;
    $("stored-now").addEventListener("click", () => this.#choose(true), { signal });
    $("open-now").addEventListener("click", () => (this.#choose(false), showOpen()), { signal });
    this.#choose(false);
  }

  /** @param {boolean} stored */
  #choose(stored) {
    this.shown = stored;
    $("stored-now").setAttribute("aria-pressed", String(stored));
    $("open-now").setAttribute("aria-pressed", String(!stored));
    $("stored-table").hidden = !stored;
    $("open-table").hidden = stored;
    if (stored) void this.show();
  }

  /** From the beginning, or with `more` the page that follows. @param {boolean} [more] */
  async show(more = false) {
    const query = new URLSearchParams({ prefix: $("prefix").value.trim(), limit: String(PAGE) });
    if (more && this.#next) query.set("after", this.#next);
    try {
      const { channels, next } = await this.#call(`/v1/stored?${query}`);
      if (!this.shown) return;
      const rows = channels.map(row);
      if (more) $("stored").append(...rows);
      else $("stored").replaceChildren(...rows);
      this.#next = next;
      $("channels-note").textContent = $("stored").children.length ? "" : "No channel like that has messages.";
      $("more").hidden = next === null || $("stored").children.length >= MOST;
    } catch (/** @type {any} */ error) {
      $("channels-note").textContent = String(error.message);
    }
  }

  close() {
    this.#off.abort();
    $("stored").replaceChildren();
  }
}

/** @param {any} one */
function row({ channel, messages, oldest, newest }) {
  const link = element("a", "", channel);
  link.href = `#${encodeURIComponent(channel)}`;
  const name = element("th", "", link);
  name.scope = "row";
  const numbers = [count.format(messages), ago(oldest), ago(newest)];
  return element("tr", "", name, ...numbers.map((text) => element("td", "number", text)));
}
