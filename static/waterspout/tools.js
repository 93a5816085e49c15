/** What the parts of the client share. @module */

/**
 * The server's `error`, or the client's own: `disconnected` (no answer came, it is unknown whether the command was
 * carried out), `closed`, `limit_exceeded`, `too_large`, `bad_request` (what cannot be written down).
 */
export class WaterspoutError extends Error {
  /** @param {{code?: any, reason?: any, retry?: any, retry_after?: any, rev?: any, details?: any}} error */
  constructor({ code, reason, retry, retry_after: retryAfter, rev, details }) {
    super(`${code}: ${reason}`);
    this.name = "WaterspoutError";
    this.code = String(code);
    this.reason = String(reason ?? "");
    /** Whether the same may succeed later. */
    this.retry = retry === true;
    /** Seconds; null if the server did not say. */
    this.retryAfter = Number.isFinite(retryAfter) ? Number(retryAfter) : null;
    /** The document's present revision, where that is what is wrong. @type {string | null} */
    this.rev = typeof rev === "string" ? rev : null;
    /** What the back end says besides, of a call that it has refused. @type {any} */
    this.details = details ?? null;
  }
}

export const CLOSED = { code: "closed", reason: "the client is closed" };
export const LOST = { code: "disconnected", reason: "the connection was lost before the reply", retry: true };

/** Listeners by event name. */
export class Emitter {
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();
  /** How many of them the client's user has given. @type {Map<string, number>} */
  #given = new Map();

  /**
   * Call `listener` at each event of this name; the returned function ends that.
   *
   * @param {string} name
   * @param {(event: any) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    // A function of its own: the same listener may be given twice, and each time taken away once.
    const off = this._hear(name, (event) => listener(event));
    this.#count(name, 1);
    return () => void (off() && this.#count(name, -1));
  }

  /** As `on`, for the client's own parts: they do not count. The returned function says whether it was still there.
   *
   * @internal @param {string} name @param {(event: any) => void} listener @returns {() => boolean} */
  _hear(name, listener) {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Whether somebody listens. @internal @param {string} name */
  _heard(name) {
    return (this.#given.get(name) ?? 0) > 0;
  }

  /** @param {string} name @param {number} more */
  #count(name, more) {
    this.#given.set(name, (this.#given.get(name) ?? 0) + more);
    this._listenedTo([...this.#given.values()].some((count) => count > 0));
  }

  /** Whether somebody listens to anything has perhaps changed. @protected @param {boolean} now */
  _listenedTo(now) {
    void now;
  }

  /** @protected @param {string} name @param {any} [event] */
  emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // A listener's bug is reported like any other, and must not stop the stream.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** Full jitter: random below a doubling bound, so that a herd comes apart. In seconds.
 *
 * @param {number} attempt @param {number} least @param {number} most */
export function jitter(attempt, least, most) {
  return Math.random() * Math.min(most, least * 2 ** Math.min(attempt, 16));
}

/** The offset of a position, which is what stands behind the colon. @param {string} cursor */
export const offsetOf = (cursor) => Number(cursor.slice(cursor.lastIndexOf(":") + 1));

/** Not `randomUUID`: browsers keep that from pages served without TLS. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** How `JSON.stringify` writes half a surrogate pair, and nothing else. */
const HALF_A_PAIR = /(?<!\\)(?:\\\\)*\\ud[89a-f]/;

/**
 * A command as JSON. Half a surrogate pair is no text: no URL can hold it, and a server that cannot read a frame cannot
 * say which it was.
 *
 * @param {any} fields @returns {string}
 */
export function written(fields) {
  const text = JSON.stringify(fields);
  if (text.includes("\\ud") && HALF_A_PAIR.test(text)) {
    const [name] = Object.entries(fields).find((one) => HALF_A_PAIR.test(JSON.stringify(one))) ?? [];
    throw new WaterspoutError({ code: "bad_request", reason: `${name}: half of a surrogate pair is not text` });
  }
  return text;
}

/** A command as JSON has it, without what is undefined, and so that nobody changes it any more.
 *
 * @param {any} fields @returns {any} */
export function plain(fields) {
  return JSON.parse(written(fields));
}

/** What has ended without the user's will, and nobody listens for, is at least on the console.
 *
 * @param {string} what @param {string} reason */
export function complain(what, reason) {
  console.error(`waterspout: ${what}: ${reason}`);
}

/** Events tell of the failure as well: nobody has to wait for this promise.
 *
 * @template T @param {Promise<T>} promise @returns {Promise<T>} */
export function handled(promise) {
  promise.catch(() => {});
  return promise;
}

/** @returns {{promise: Promise<any>, resolve: (value?: any) => void, reject: (error: Error) => void}} */
export function deferred() {
  /** @type {any} */
  let parts;
  const promise = new Promise((resolve, reject) => (parts = { resolve, reject }));
  return { promise, ...parts };
}
