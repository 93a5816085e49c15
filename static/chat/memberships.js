/** The rooms that one is a member of, with what is unread in each, as the server counts it for all devices. @module */

import { roomOf, titleOf } from "./words.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{name: string, title: string, unread: number, mentions: number, read: string, role: string}} Row */

/** Where rooms with members are made by name, if the server has this namespace. */
export const TEAM = "team";

export class Memberships {
  #rooms;

  /** @param {Waterspout} client @param {() => void} onchange */
  constructor(client, onchange) {
    this.#rooms = client.rooms();
    this.#rooms.on("change", onchange);
    this.#rooms.on("ended", () => {}); // this server has none: the list stays empty
  }

  /** All rooms have been told once. */
  get ready() {
    return this.#rooms.ready;
  }

  /** By name, so that nothing moves under the hand. @returns {Row[]} */
  list() {
    const rows = [...this.#rooms.rooms.values()].map((room) => this.#row(room));
    return rows.sort((one, other) => one.title.localeCompare(other.title));
  }

  /** @param {string} channel @returns {Row | null} */
  of(channel) {
    const room = this.#rooms.rooms.get(channel);
    return room ? this.#row(room) : null;
  }

  /** @param {any} room @returns {Row} */
  #row({ channel, unread, mentions = 0, read, role }) {
    const name = roomOf(channel);
    return { name, title: titleOf(name), unread, mentions, read, role };
  }
}
