/** Who belongs to the room that is shown: for calling them by name, and for talking to one of them alone. @module */

import { $ } from "../page.js";
import { DIRECT } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./chat.js").Page} Page */

const MOST = 1000;

export class People {
  #page;
  /** All but oneself. @type {string[]} */
  names = [];
  /** By user. @type {Map<string, string>} */
  roles = new Map();
  /** Two may talk to each other here. */
  talks = false;

  #mentions;

  /** @param {Page} page @param {typeof import("./mentions.js") | null} mentions  of who is signed in
   * @param {(channel: string) => Promise<Set<string>>} may */
  constructor(page, mentions, may) {
    this.#page = page;
    this.#mentions = mentions;
    if (mentions === null) return;
    this.offerIn($("text"));
    const channel = `${DIRECT}:${[page.me, "x"].sort().join(",")}`;
    void may(channel).then((rights) => (this.talks = rights.has("publish")));
  }

  /** Another room is shown, or what one may do there is known. @param {Room} room */
  async follow(room) {
    const shown = room.membered;
    $("members").hidden = !shown;
    this.names = [];
    this.roles.clear();
    if (!shown) return;
    const page = await room.channel.memberships({ limit: MOST }).catch(() => ({ members: [] }));
    if (room !== this.#page.room) return;
    this.roles = new Map(page.members.map(({ user, role }) => [user, role]));
    this.names = [...this.roles.keys()].filter((user) => user !== this.#page.me);
  }

  /** Names, while one writes in this field. @param {HTMLTextAreaElement} field */
  offerIn(field) {
    if (this.#mentions) new this.#mentions.Mentions(field, () => this.names);
  }

  /** Whom a text calls. @param {Room} room @param {string} text @returns {{mentions?: string[]}} */
  called(room, text) {
    const mentions = room.has.has("members") ? (this.#mentions?.mentionsIn(text, this.names) ?? []) : [];
    return mentions.length ? { mentions } : {};
  }
}
