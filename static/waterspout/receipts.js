/** How far the members of a channel have read. @module */

import { Emitter, offsetOf } from "./tools.js";

/** @typedef {import("./channel.js").Channel} Channel */

/**
 * Of each member the offset up to which the channel is read, kept up to date while the channel is subscribed, where its
 * namespace has receipts.
 *
 * Events: `change`, with nothing; `failed` with a WaterspoutError, when the members could not be asked for.
 */
export class Receipts extends Emitter {
  #channel;
  /** By user. @type {Map<string, number>} */
  users = new Map();

  /** @param {Channel} channel */
  constructor(channel) {
    super();
    this.#channel = channel;
    channel._hear("read", ({ user, offset }) => {
      this.users.set(user, offset);
      this.emit("change");
    });
    channel._hear("subscribed", () => void this.refresh().catch((error) => this.emit("failed", error)));
  }

  /** Who has read the message at the offset. @param {number} offset @returns {string[]} */
  of(offset) {
    return [...this.users].filter(([, read]) => read >= offset).map(([user]) => user);
  }

  /** Ask the server who the members are, and how far each has read. */
  async refresh() {
    const users = new Map();
    let page;
    let after;
    do {
      page = await this.#channel.memberships({ after, limit: 1000 });
      for (const { user, read = "0" } of page.members) users.set(user, offsetOf(read));
      after = page.members.at(-1)?.user;
    } while (page.more);
    this.users = users;
    this.emit("change");
  }
}
