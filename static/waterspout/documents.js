/** Live documents. @module */

import { CLOSED, complain, Emitter, randomKey } from "./tools.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {{_id: string, _rev: string, [field: string]: any}} Document */
/** @typedef {{where?: object, sort?: string, limit?: number, page?: string, fields?: string, count?: boolean}} Query */

/**
 * A collection. Writes are sent again after a loss, with the same key: they have the same effect twice. Not so one that
 * is bound to a revision: it is rejected with `disconnected`, and one has to look what became of it.
 */
export class Collection {
  #client;

  /** @param {Waterspout} client @param {string} name */
  constructor(client, name) {
    this.#client = client;
    this.name = name;
  }

  /** @param {string} id @returns {Promise<Document>} */
  async get(id) {
    return (await this.#client.request("get", { collection: this.name, document_id: id })).document;
  }

  /** @param {Query} [query] @returns {Promise<{documents: Document[], page: string | null, count?: number}>} */
  find(query = {}) {
    return this.#client.request("find", { collection: this.name, ...query });
  }

  /** A new document, whose id the server makes. @param {object} document @returns {Promise<Document>} */
  async create(document) {
    return (await this.#client.request("put", { collection: this.name, document, key: randomKey() })).document;
  }

  /**
   * All fields anew. `rev`: only if this is the present revision; `absent`: only if there is none yet; else `conflict`.
   *
   * @param {string} id @param {object} document @param {{rev?: string, absent?: boolean}} [guard] @returns {Promise<Document>}
   */
  async put(id, document, guard) {
    return (await this.#write("put", { document_id: id, document }, guard)).document;
  }

  /** Some fields; those that are null are taken away (RFC 7396).
   *
   * @param {string} id @param {object} changes @param {{rev?: string}} [guard] @returns {Promise<Document>} */
  async patch(id, changes, guard) {
    return (await this.#write("patch", { document_id: id, document: changes }, guard)).document;
  }

  /** @param {string} id @param {{rev?: string}} [guard] @returns {Promise<void>} */
  async delete(id, guard) {
    await this.#write("delete", { document_id: id }, guard);
  }

  /** A copy that follows every change. @param {object} [where] @param {{conflate?: number}} [options] */
  watch(where, options) {
    return this.#client.watch(this.name, where, options);
  }

  /** @param {string} type @param {object} fields @param {{rev?: string, absent?: boolean}} [guard] */
  #write(type, fields, { rev, absent } = {}) {
    const command = { collection: this.name, ...fields, if_rev: rev, if_absent: absent };
    const guarded = rev !== undefined || absent;
    return guarded ? this.#client._once(type, command) : this.#client.request(type, command);
  }
}

/**
 * A local copy of a collection, or of the part that `where` selects: first the documents as they are, then each change.
 * After a loss it goes on where it was; where that is no longer possible it begins anew.
 *
 * Events: `ready` (the copy is complete, again after each new beginning), `change {op: "put" | "delete", id, document,
 * before}`, `reset` (all at once: look at `documents`), `ended` (a WaterspoutError; with the code `closed`
 * it is the client that was closed by the server, and `connect` would go on).
 */
export class LiveCopy extends Emitter {
  #channel;
  /** Ends what it hears of the channel, which may be another copy's afterwards. @type {(() => void)[]} */
  #off;
  /** @type {Promise<void> | undefined} */
  #closed;
  /** What has come of a snapshot that is not complete. @type {Map<string, Document> | null} */
  #coming = null;
  /** @type {Map<string, Document>} by id */
  documents = new Map();
  /** Whether it is complete. */
  ready = false;

  /** @param {Channel} channel @param {object} options  of its subscription */
  constructor(channel, options) {
    super();
    this.#channel = channel;
    this.#off = [
      channel.on("snapshot", (page) => this.#take(page)),
      channel.on("message", ({ data }) => this.#change(data)),
      channel.on("ended", (error) => {
        if (error.code !== CLOSED.code) {
          this.#closed ??= Promise.resolve();
          this.#leave();
          if (!this._heard("ended")) complain(channel.name, error.message);
        } // else `connect` would go on with it
        this.emit("ended", error);
      }),
    ];
    channel.cursor = null;
    channel.subscribe({ ...options, snapshot: true });
  }

  #leave() {
    for (const off of this.#off.splice(0)) off();
  }

  /** Follow no longer. Resolves when the server has been told. @returns {Promise<void>} */
  close() {
    this.#leave();
    return (this.#closed ??= this.#channel.unsubscribe());
  }

  /** The channel it comes from. */
  get channel() {
    return this.#channel;
  }

  /** @param {{start?: boolean, documents: Document[], more: boolean}} page */
  #take({ start, documents, more }) {
    if (start || !this.#coming) this.#coming = new Map();
    for (const document of documents) this.#coming.set(document._id, document);
    if (more) return;
    this.documents = this.#coming;
    this.#coming = null;
    this.ready = true;
    this.emit("reset");
    this.emit("ready");
  }

  /** @param {{op: "put" | "delete", id: string, document: Document | null, truncated?: boolean}} change */
  #change({ op, id, document, truncated }) {
    const before = this.documents.get(id) ?? null;
    if (op === "delete" && !before) return;
    if (op === "put" && document) this.documents.set(id, document);
    else if (op === "delete") this.documents.delete(id);
    else if (truncated) this.documents.set(id, /** @type {Document} */ ({ _id: id, _rev: "", _truncated: true }));
    this.emit("change", { op, id, document, before });
  }
}
