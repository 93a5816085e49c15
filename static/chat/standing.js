/** What one may do in a room, as the foot of the page shows it: write, join, or only look on. @module */

import { $ } from "../page.js";
import { nameOf } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {{get: (path: string) => Promise<any>, join: (room: Room) => Promise<void>}} Ways */

export class Standing {
  #ways;
  /** @type {Room | null} */
  #room = null;

  /** @param {Ways} ways */
  constructor(ways) {
    this.#ways = ways;
    const button = $("join").querySelector("button");
    button.addEventListener("click", async () => {
      button.disabled = true;
      if (this.#room) await ways.join(this.#room);
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
    $("join").hidden = !joins && !(silent && me !== null);
    $("join").querySelector("button").hidden = !joins;
    $("join").querySelector("p").textContent = joins
      ? silent
        ? `Join ${nameOf(room.name)} to write here. It will stay in your list.`
        : `Join ${nameOf(room.name)}, and it is counted for you what is new here.`
      : may.has("subscribe")
        ? "Only members write here."
        : "This room is for its members.";
    $("foot").classList.toggle("silent", silent && me !== null);
  }
}
