/** What the parts of the client share. @module */

/**
 * The server's `error`, or the client's own: `disconnected` (no answer came, it is unknown whether the command was
 * carried out), `closed`, `limit_exceeded`, `too_large`.
 */
export class WaterspoutError extends Error {
  /** @param {{code?: any, reason?: any, retry?: any, retry_after?: any, rev?: any}} error */
  constructor({ code, reason, retry, retry_after: retryAfter, rev }) {
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
  }
}

export const CLOSED = { code: "closed", reason: "the client is closed" };
export const LOST = { code: "disconnected", reason: "the connection was lost before the reply", retry: true };

/** Listeners by event name. */
export class Emitter {
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();

  /**
   * Call `listener` at each event of this name; the returned function ends that.
   *
   * @param {string} name
   * @param {(event: any) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    listeners.add(listener);
    return () => void listeners.delete(listener);
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

/** Not `randomUUID`: browsers keep that from pages served without TLS. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** As JSON has it, without what is undefined, and so that nobody changes it any more.
 *
 * @param {any} value @returns {any} */
export function plain(value) {
  return JSON.parse(JSON.stringify(value));
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
