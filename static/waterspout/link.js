/** What a connection is, whichever way it goes: commands and their replies, and the signs of life. @module */

import { Pace } from "./pace.js";
import { LOST, WaterspoutError } from "./tools.js";

/**
 * `goodbye`: the server's `disconnect`, if it sent one; `delay`: after how many seconds to come back, if it said so.
 *
 * @typedef {{code: number, reason: string, goodbye: any, delay: number | null}} End
 */
/** @typedef {(error: WaterspoutError | null, reply: any) => void} Done */
/**
 * `wanted`: whether it is still to be sent, should it have had to wait.
 *
 * @typedef {{id: number, type: string, fields: any, sent: number, size: number, done: Done, wanted: () => boolean}} Command
 */
/**
 * @typedef {object} Events
 * @property {() => void} open
 * @property {(push: any) => void} push
 * @property {(end: End) => void} end
 * @property {(event: {delay: number, waiting: number, reason: string}) => void} limited
 */

const TOO_LARGE = { code: "too_large", reason: "a frame has at most twice the server's message_bytes" };
/** What is answered with `rate_limited` at once: who writes documents may have written again in the meantime, and a call
 * may have a rate of its own. */
const NEVER_WAITS = ["connect", "ping", "put", "patch", "delete", "call"];

/** What may take as long as the back end does, or as it was asked to wait. */
const PATIENT = ["call", "fetch"];

/**
 * One connection, from its opening to its end, which is reported once. Nothing of an ended link is handed on, however
 * late it arrives: its successor resumes from the cursor, and would bring it again.
 */
export class Link {
  _patience;
  _heard = 0;
  #events;
  #nextId = 1;
  /** Oldest first. @type {Map<number, Command>} */
  #replies = new Map();
  /** Errors without an id: of a frame the server could not read, it cannot say which. @type {{at: number, error: WaterspoutError}[]} */
  #unclaimed = [];
  #pace;
  #quiet = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #sweep;
  /** A longer frame would end a WebSocket, and the reason might get lost on the way. */
  largest = Infinity;
  /** The server's `disconnect`; what is sent after it may not be read any more. @type {any} */
  goodbye = null;
  over = false;

  /** @param {number} patience @param {Events} events */
  constructor(patience, events) {
    this.#events = events;
    this._patience = patience * 1000;
    this.#pace = new Pace(
      (command) => (command.wanted() ? this.#put(command) : command.done(new WaterspoutError(LOST), null)),
      events.limited,
    );
    this.#timer = setTimeout(() => this.end(1006, "no answer"), this._patience);
  }

  /** How it goes: "websocket", "sse" or "poll". @returns {string} */
  get transport() {
    throw new TypeError("a link has a transport");
  }

  /** How long a command may go without its reply, in ms: the server decides a publish within 10 s. */
  get deadline() {
    return 20_000;
  }

  /** How many publishes of a channel may be under way at once. */
  get window() {
    return Infinity;
  }

  /** The size of what was sent, where it matters. @protected @param {any} command @returns {number} */
  _transmit(command) {
    throw new TypeError(`a link transmits ${command.type}`);
  }

  /** @protected */
  _close() {}

  /**
   * Send a command; what the rate limit refuses waits, and is sent again. `done` is called in the very moment the reply
   * is read: the pushes behind it may have arrived in the same packet, and a promise would be too late for them.
   *
   * @param {string} type
   * @param {object} fields
   * @param {Done} done
   * @param {() => boolean} [wanted]
   */
  send(type, fields, done, wanted = () => true) {
    if (this.over) return done(new WaterspoutError(LOST), null);
    /** @type {Command} */
    const command = { id: this.#nextId++, type, fields, sent: 0, size: 0, done, wanted };
    if (this.#pace.busy && mayWait(command)) this.#pace.wait(command);
    else this.#put(command);
  }

  /** @param {Command} command */
  #put(command) {
    const { id, type, fields, done } = command;
    command.sent = performance.now();
    this.#replies.set(id, command);
    // For some MessagePack libraries, what is undefined is something nevertheless.
    const given = Object.entries(fields).filter(([, value]) => value !== undefined);
    try {
      command.size = this._transmit({ type, id, ...Object.fromEntries(given) });
    } catch (/** @type {any} */ error) {
      if (!this.#replies.delete(id)) throw error;
      done(error, null);
    }
  }

  /** From now on notice when the server has been silent for so many seconds. @param {number} quiet */
  watch(quiet) {
    clearTimeout(this.#timer);
    this.#quiet = quiet * 1000;
    this.#check();
    this.#sweep = setInterval(() => this.#leaveTheSilent(), 5000);
  }

  /** Whoever does not answer at all is left, and asked again elsewhere. But a command that has got no answer while there
   * was an error without an id is the one that error was for: sent again, it would meet the same. */
  #leaveTheSilent() {
    for (const { id, type, sent, done } of this.#replies.values()) {
      if (performance.now() - sent <= this.deadline) return;
      const index = this.#unclaimed.findIndex(({ at }) => at >= sent);
      if (index < 0 && PATIENT.includes(type)) continue;
      if (index < 0) return this.end(1006, "a command was not answered");
      const [{ error }] = this.#unclaimed.splice(index, 1);
      this.#replies.delete(id);
      done(error, null);
    }
  }

  #check() {
    const silence = performance.now() - this._heard;
    if (silence >= this.#quiet) this.probe();
    else this.#timer = setTimeout(() => this.#check(), this.#quiet - silence);
  }

  /**
   * Ask for a sign of life, and end the link if none comes. A timer alone proves nothing: those of a background tab
   * come minutes late, and a laptop that slept has heard nothing either.
   */
  probe() {
    clearTimeout(this.#timer);
    const asked = performance.now();
    this.#timer = setTimeout(() => {
      if (this._heard < asked) this.end(1006, "the server has gone silent");
      else this.#check();
    }, this._patience);
    this.send("ping", {}, () => {});
  }

  /** @protected @param {any} push */
  _take(push) {
    if (this.over) return;
    this._heard = performance.now();
    if (push.type === "reply" || push.type === "error") this.#answer(push);
    else if (push.type === "disconnect") this.goodbye = push;
    else this.#events.push(push);
  }

  /** @param {any} push */
  #answer(push) {
    const command = this.#replies.get(push.id);
    if (!command) {
      if (push.id === undefined) this.#unclaimed.push({ at: performance.now(), error: new WaterspoutError(push) });
      return;
    }
    this.#replies.delete(push.id);
    if (push.type === "reply") {
      this.#pace.accepted();
      return command.done(null, push);
    }
    const error = new WaterspoutError(push);
    if (error.code === "rate_limited" && error.retry && mayWait(command)) this.#pace.refused(command, error);
    else command.done(error, push);
  }

  /** @param {number} code @param {string} reason @param {number | null} [delay] */
  end(code, reason, delay = null) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#sweep);
    this._close();
    const commands = [...this.#replies.values(), ...this.#pace.close()];
    // 1009: one frame was far too big. Sent again it would end every connection from now on.
    const largest = code === 1009 ? Math.max(...commands.map(({ size }) => size)) : Infinity;
    for (const { size, done } of commands) done(new WaterspoutError(size < largest ? LOST : TOO_LARGE), null);
    this.#events.end({ code, reason, goodbye: this.goodbye, delay });
  }

  /** @protected */
  _tooLarge() {
    return new WaterspoutError(TOO_LARGE);
  }
}

/** @param {Command} command */
function mayWait({ type, fields }) {
  return !NEVER_WAITS.includes(type) && !fields.ephemeral; // which is now or not at all
}
