/** The documents of a collection: browsed in pages, searched with a `where`. @module */

import { $, element } from "../page.js";

const PAGE = 20;

/** @typedef {(path: string) => Promise<any>} Call  a request with the operator's rights */

export class Documents {
  #call;
  /** Of the page behind what is shown. @type {string | null} */
  #next = null;
  /** What is listened to, to be taken off. */
  #off = new AbortController();

  /** @param {Call} call */
  constructor(call) {
    this.#call = call;
    const { signal } = this.#off;
    const ask = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#next = null;
      void this.#show();
    };
    $("documents-search").addEventListener("submit", ask, { signal });
    $("documents-more").addEventListener("click", () => void this.#show(), { signal });
  }

  /** Names of collections that somebody watches, as the list of channels tells. @param {string[]} channels */
  suggest(channels) {
    const names = new Set(channels.filter((one) => one.startsWith("docs:")).map((one) => one.slice(5).split(/[/#]/)[0]));
    for (const one of $("collections").options) names.delete(one.value);
    for (const name of names) {
      const option = element("option");
      option.value = name;
      $("collections").append(option);
    }
  }

  async #show() {
    const collection = $("collection").value.trim();
    const query = new URLSearchParams({ limit: String(PAGE) });
    const where = $("where").value.trim();
    if (where) query.set("where", where);
    if (this.#next) query.set("page", this.#next);
    const more = this.#next !== null;
    try {
      const { documents, page } = await this.#call(`/v1/documents/${encodeURIComponent(collection)}?${query}`);
      const rows = documents.map((/** @type {any} */ one) => {
        const { _id, _rev, ...fields } = one;
        const line = JSON.stringify(fields);
        const whole = element("pre", "", JSON.stringify(one, null, 2));
        return element("li", "", element("details", "", element("summary", "", element("code", "", _id), ` ${line}`), whole));
      });
      if (more) $("documents-list").append(...rows);
      else $("documents-list").replaceChildren(...rows);
      this.#next = page ?? null;
      $("documents-note").textContent = $("documents-list").children.length ? "" : "None are like that.";
    } catch (/** @type {any} */ error) {
      $("documents-list").replaceChildren();
      $("documents-note").textContent = error.reason ?? error.message;
      this.#next = null;
    }
    $("documents-more").hidden = this.#next === null;
  }

  close() {
    this.#off.abort();
    $("documents-list").replaceChildren();
    $("documents-note").textContent = "";
    $("documents-more").hidden = true;
  }
}
