/** The rooms and threads that one is a member of, with what is unread in each, as the server counts it for all devices. @module */

import { isDirect, roomOf, titleOf } from "./words.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{name: string, title: string, direct: boolean, unread: number, mentions: number, read: string, role: string,
 *   mute: boolean, pin: boolean}} Row */
/** `room` is where it is, `of` the message that is answered there.
 *
 * @typedef {{channel: string, parent: string, room: string, of: number, unread: number, mentions: number, read: string,
 *   time: number | null, mute: boolean}} ThreadRow */

export class Memberships {
  #rooms;
  #me;

  /** @param {Waterspout} client @param {string} me @param {() => void} onchange */
  constructor(client, me, onchange) {
    this.#me = me;
    this.#rooms = client.rooms({ threads: true });
    this.#rooms.on("change", onchange);
    this.#rooms.on("ended", () => {}); // this server has none: the list stays empty
  }

  /** Those that are pinned, and then by name, so that nothing moves under the hand. @returns {Row[]} */
  list() {
    const rows = this.#rooms.list().map((/** @type {any} */ room) => this.#row(room));
    return rows.sort((one, other) => Number(other.pin) - Number(one.pin) || one.title.localeCompare(other.title));
  }

  /** What is followed, the newest reply first. @returns {ThreadRow[]} */
  threads() {
    return this.#rooms.threads().map((/** @type {any} */ { channel, thread, unread, mentions = 0, read, time, mute = false }) => {
      const { channel: parent, of } = thread;
      return { channel, parent, room: roomOf(parent), of, unread, mentions, read, time, mute };
    });
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
