/** Edits that are shown at once: sent behind it, taken back if they are refused, undone if somebody wants that. @module */

import { toast } from "../toasts.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {import("../waterspout.js").Document} Document */
/** @typedef {{ document: Document, changes: Record<string, any>, guarded?: boolean }} Edit
 *   `guarded`: only if it is still as it is shown */

/** Milliseconds that an edit which was answered is shown before the live copy has it. */
const PATIENCE = 4000;
const UNDONE = 20;

export class Edits {
  #client;
  #redraw;
  /** @type {Map<string, { changes: Record<string, any>, rev: string | null }>} */
  #pending = new Map();
  /** The newest last. @type {{ words: string, collection: string, edits: Edit[] }[]} */
  #done = [];

  /** @param {Waterspout} client @param {() => void} redraw */
  constructor(client, redraw) {
    this.#client = client;
    this.#redraw = redraw;
  }

  /** A document as it will be. @param {string} collection @param {Document} document @returns {Document} */
  shown(collection, document) {
    const edit = this.#pending.get(`${collection}/${document._id}`);
    return edit ? { ...document, ...edit.changes } : document;
  }

  /** @param {string} collection @param {string} id  whether an edit of it is under way */
  busy(collection, id) {
    return this.#pending.get(`${collection}/${id}`)?.rev === null;
  }

  /** The live copy has heard of it. @param {string} collection @param {string} id */
  heard(collection, id) {
    const key = `${collection}/${id}`;
    if (this.#pending.get(key)?.rev !== null) this.#pending.delete(key);
  }

  /**
   * @param {string} collection @param {Edit[]} edits @param {string} words  what has been done, for the toast
   * @param {boolean} [undoing]
   */
  async write(collection, edits, words, undoing = false) {
    if (!edits.length) return;
    const entries = edits.map((edit) => {
      const entry = { changes: edit.changes, rev: /** @type {string | null} */ (null) };
      this.#pending.set(`${collection}/${edit.document._id}`, entry);
      return entry;
    });
    this.#redraw();
    const said = toast(words, undoing ? {} : { act: "Undo", does: () => this.undo() });
    const results = await Promise.allSettled(edits.map((edit) => this.#send(collection, edit)));
    /** @type {Edit[]} */
    const back = [];
    /** @type {any} */
    let refused = null;
    results.forEach((result, index) => {
      const { document, changes, guarded } = edits[index];
      const key = `${collection}/${document._id}`;
      if (result.status === "rejected") {
        refused = result.reason;
        if (this.#pending.get(key) === entries[index]) this.#pending.delete(key);
        return;
      }
      entries[index].rev = result.value._rev;
      setTimeout(() => {
        if (this.#pending.get(key) !== entries[index]) return;
        this.#pending.delete(key);
        this.#redraw();
      }, PATIENCE);
      const before = Object.fromEntries(Object.keys(changes).map((name) => [name, document[name] ?? null]));
      back.push({ document: result.value, changes: before, guarded });
    });
    if (refused) {
      said();
      const failed = edits.length - back.length;
      const some = edits.length > 1 ? `${failed} of ${edits.length} were refused` : "Refused";
      toast(`${some}: ${told(refused)}.`, { bad: true, ...(back.length && !undoing ? { act: "Undo the others", does: () => this.undo() } : {}) });
    }
    if (back.length && !undoing) this.#done = [...this.#done, { words, collection, edits: back }].slice(-UNDONE);
    this.#redraw();
  }

  /** @param {string} collection @param {Edit} edit */
  #send(collection, { document, changes, guarded }) {
    const guard = guarded ? { rev: document._rev } : undefined;
    return this.#client.collection(collection).patch(document._id, changes, guard);
  }

  get undoable() {
    return this.#done.at(-1)?.words ?? null;
  }

  async undo() {
    const last = this.#done.pop();
    if (last) await this.write(last.collection, last.edits, `Undone: ${last.words}`, true);
  }
}

/** @param {any} error */
function told(error) {
  if (error.code === "conflict") return "it has changed meanwhile";
  return error.reason ?? error.message;
}
