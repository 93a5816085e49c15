/** Who belongs to the room that is shown, for calling them by name and for looking at them; and who can be talked to alone.
 *
 * @module */

import { $ } from "../page.js";
import { MembersPanel } from "./members.js";
import { Mentions, mentionsIn } from "./mentions.js";
import { DIRECT } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./chat.js").Page} Page */

const MOST = 1000;

export class People {
  #page;
  /** All but oneself. @type {string[]} */
  #names = [];
  /** Two may talk to each other here. */
  #talks = false;

  /** @param {Page} page @param {(channel: string) => Promise<Set<string>>} may */
  constructor(page, may) {
    this.#page = page;
    if (page.me === null) return;
    new Mentions(() => this.#names);
    const channel = `${DIRECT}:${[page.me, "x"].sort().join(",")}`;
    void may(channel).then((rights) => (this.#talks = rights.has("publish")));
  }

  /** Another room is shown, or what one may do there is known. @param {Room} room */
  async follow(room) {
    const shown = room.has.has("members") && this.#page.me !== null && room.may.has("subscribe");
    $("members").hidden = !shown;
    this.#names = [];
    if (!shown) return;
    const page = await room.channel.memberships({ limit: MOST }).catch(() => ({ members: [] }));
    if (room === this.#page.room) this.#names = page.members.map(({ user }) => user).filter((user) => user !== this.#page.me);
  }

  /** Whom a text calls. @param {Room} room @param {string} text @returns {{mentions?: string[]}} */
  called(room, text) {
    const mentions = room.has.has("members") ? mentionsIn(text, this.#names) : [];
    return mentions.length ? { mentions } : {};
  }

  /**
   * @param {import("./panel.js").Panel} panel @param {Room} room
   * @param {{say: (words: string) => void, leave: () => void, go: (room: string) => void, row: import("./memberships.js").Row | null}} ways
   */
  show(panel, room, { say, leave, go, row }) {
    if (panel.kind === "members") return panel.close();
    const talk = (/** @type {string} */ user) => go(`/${this.#page.client.direct(DIRECT, user).name}`);
    new MembersPanel(panel, room, this.#page.me ?? "", { say, onleave: leave, row, talk: this.#talks ? talk : null });
  }
}
