/** What was begun to be written in each room, and not sent: kept as long as the tab lives. @module */

import { recall, remember } from "../page.js";

export class Drafts {
  /** By room. @type {Map<string, string>} */
  #texts;

  constructor() {
    const kept = recall("sessionStorage", "drafts");
    this.#texts = new Map(Array.isArray(kept) ? kept : []);
  }

  /** @param {string} room */
  of(room) {
    return this.#texts.get(room) ?? "";
  }

  /** Whether there is one where there was none, or the other way round. @param {string} room @param {string} text */
  keep(room, text) {
    const before = this.#texts.has(room);
    if (text.trim()) this.#texts.set(room, text);
    else this.#texts.delete(room);
    remember("sessionStorage", "drafts", [...this.#texts]);
    return before !== this.#texts.has(room);
  }
}
