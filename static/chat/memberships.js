/** The rooms that one is a member of, with what is unread in each, as the server counts it for all devices. @module */

import { isDirect, roomOf, titleOf } from "./words.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{name: string, title: string, direct: boolean, unread: number, mentions: number, read: string, role: string,
 *   mute: boolean, pin: boolean}} Row */

/** Where rooms with members are made by name, if the server has this namespace. */
export const TEAM = "team";

export class Memberships {
  #rooms;
  #me;

  /** @param {Waterspout} client @param {string} me @param {() => void} onchange */
  constructor(client, me, onchange) {
    this.#me = me;
    this.#rooms = client.rooms();
    this.#rooms.on("change", onchange);
    this.#rooms.on("ended", () => {}); // this server has none: the list stays empty
  }

  /** All rooms have been told once. */
  get ready() {
    return this.#rooms.ready;
  }

  /** Those that are pinned, and then by name, so that nothing moves under the hand. @returns {Row[]} */
  list() {
    const rows = [...this.#rooms.rooms.values()].map((room) => this.#row(room));
    return rows.sort((one, other) => Number(other.pin) - Number(one.pin) || one.title.localeCompare(other.title));
  }

  /** @param {string} channel @returns {Row | null} */
  of(channel) {
    const room = this.#rooms.rooms.get(channel);
    return room ? this.#row(room) : null;
  }

  /** @param {any} room @returns {Row} */
  #row({ channel, unread, mentions = 0, read, role, mute = false, pin = false }) {
    const name = roomOf(channel);
    return { name, title: titleOf(name, this.#me), direct: isDirect(name), unread, mentions, read, role, mute, pin };
  }
}
