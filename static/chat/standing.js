/** What one may do in a room, as the foot of the page shows it: write, join, or only look on. @module */

import { $ } from "../page.js";
import { nameOf } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** `signIn`: null where there are no accounts.
 *
 * @typedef {{get: (path: string) => Promise<any>, join: (room: Room) => Promise<void>, signIn: (() => Promise<void>) | null}} Ways */

export class Standing {
  #ways;
  /** @type {Room | null} */
  #room = null;
  /** It is a guest, who had to be somebody. */
  #guest = false;

  /** @param {Ways} ways */
  constructor(ways) {
    this.#ways = ways;
    const button = $("join").querySelector("button");
    button.addEventListener("click", async () => {
      button.disabled = true;
      if (this.#guest) await ways.signIn?.();
      else if (this.#room) await ways.join(this.#room);
      button.disabled = false;
    });
  }

  get get() {
    return this.#ways.get;
  }

  /** What one may do in a channel that need not be there yet. @param {string} channel @returns {Promise<Set<string>>} */
  async may(channel) {
    try {
      return new Set((await this.get(`/v1/channels/${encodeURIComponent(channel)}`)).may);
    } catch {
      return new Set(); // there are none, or the server is away
    }
  }

  /** @param {Room} room @param {string | null} me */
  show(room, me) {
    this.#room = room;
    const { may, known } = room;
    const joins = may.has("join");
    const silent = known && !may.has("publish");
    this.#guest = silent && me === null && this.#ways.signIn !== null;
    const told = silent && (me !== null || this.#guest);
    $("join").hidden = !joins && !told;
    const button = $("join").querySelector("button");
    button.hidden = !joins && !this.#guest;
    button.textContent = joins ? "Join" : "Sign in";
    const name = nameOf(room.name, me);
    $("join").querySelector("p").textContent = this.#guest
      ? "Sign in to take part in this room."
      : joins
        ? silent
          ? `Join ${name} to write here. It will stay in your list.`
          : `Join ${name}, and it is counted for you what is new here.`
        : may.has("subscribe")
          ? "Only members write here."
          : "This room is for its members.";
    $("foot").classList.toggle("silent", told);
  }
}
