/** What the server's rate limit makes wait. @module */

import { jitter } from "./tools.js";

/** @typedef {import("./link.js").Command} Command */
/** @typedef {import("./tools.js").WaterspoutError} WaterspoutError */

/**
 * The commands that were refused with `rate_limited`, and those that came after them: sent again in their order, one
 * each time that the server says a command takes. All of a connection together, since it is the connection that is
 * limited: each by itself, they would only get in each other's way.
 */
export class Pace {
  #send;
  #tell;
  /** @type {Command[]} by id */
  #waiting = [];
  /** Seconds from one to the next. */
  #interval = 0;
  #until = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #attempt = 0;

  /** @param {(command: Command) => void} send @param {(event: {delay: number, waiting: number, reason: string}) => void} tell */
  constructor(send, tell) {
    this.#send = send;
    this.#tell = tell;
  }

  /** Whether a command has to wait for others. */
  get busy() {
    return this.#waiting.length > 0;
  }

  /** @param {Command} command */
  wait(command) {
    const place = this.#waiting.findLastIndex(({ id }) => id < command.id) + 1;
    this.#waiting.splice(place, 0, command);
  }

  /** @param {Command} command @param {WaterspoutError} error */
  refused(command, error) {
    const begins = !this.busy;
    this.wait(command);
    const pause = error.retryAfter ?? jitter(this.#attempt++, 0.2, 5);
    this.#interval = pause;
    this.#until = Math.max(this.#until, performance.now() + pause * 1000);
    this.#arm(this.#until - performance.now());
    if (begins) this.#tell({ delay: pause, waiting: this.#waiting.length, reason: error.reason });
  }

  /** A command was taken: perhaps the limit is not as near as it was. */
  accepted() {
    this.#attempt = 0;
    this.#interval *= 0.9;
  }

  /** Nothing more is sent. @returns {Command[]} what has waited */
  close() {
    clearTimeout(this.#timer);
    return this.#waiting.splice(0);
  }

  /** @param {number} ms */
  #arm(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#next(), ms);
  }

  #next() {
    const command = this.#waiting.shift();
    if (!command) return;
    if (this.busy) this.#arm(this.#interval * 1000);
    else this.#tell({ delay: 0, waiting: 0, reason: "" });
    this.#send(command);
  }
}
