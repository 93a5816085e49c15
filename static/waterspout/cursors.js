/** The cursors that outlive the page. @module */

/** @typedef {{getItem: (name: string) => string | null, setItem: (name: string, value: string) => void}} Storage */
/** @typedef {{about: "storage", reason: string, channel: string}} Warning */

/**
 * In a storage of the page's, which may be full, forbidden, or hold what somebody else has put there: then a channel
 * begins as one without a cursor, and that is told. Without a storage nothing is kept here: each channel knows its own.
 */
export class Cursors {
  #storage;
  #prefix;
  #warn;
  /** Not written yet. @type {Map<string, string>} */
  #new = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** Told once, not twice a second. */
  #failing = false;

  /** @param {Storage | undefined} storage @param {string | undefined} prefix @param {(warning: Warning) => void} warn */
  constructor(storage, prefix = "waterspout.cursor.", warn) {
    this.#storage = storage;
    this.#prefix = prefix;
    this.#warn = warn;
  }

  /** @param {string} channel @returns {string | null} */
  get(channel) {
    const fresh = this.#new.get(channel);
    if (fresh !== undefined) return fresh;
    try {
      const kept = this.#storage?.getItem(this.#prefix + channel) ?? null;
      if (kept === null || (typeof kept === "string" && kept)) return kept;
      this.refuse(channel, "what is kept is not a cursor");
    } catch (error) {
      this.refuse(channel, String(error));
    }
    return null;
  }

  /** @param {string} channel @param {string} cursor */
  set(channel, cursor) {
    if (!this.#storage) return;
    this.#new.set(channel, cursor);
    this.#timer ??= setTimeout(() => this.save(), 500);
  }

  /** What was read is of no use. @param {string} channel @param {string} reason */
  refuse(channel, reason) {
    this.#warn({ about: "storage", reason, channel });
  }

  save() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [channel, cursor] of this.#new) this.#write(channel, cursor);
    this.#new.clear();
  }

  /** @param {string} channel @param {string} cursor */
  #write(channel, cursor) {
    try {
      this.#storage?.setItem(this.#prefix + channel, cursor);
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.refuse(channel, String(error));
      this.#failing = true;
    }
  }
}
