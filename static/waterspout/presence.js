/** Who is in a channel. @module */

import { Emitter } from "./tools.js";

/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {{user: string, sessions: number, info?: any}} Member */

/**
 * The users of a channel: asked for when the subscription begins or is resumed, and kept by the server's joins and
 * leaves. Guests have no name; of them, and of a channel with very many users, only the number is known.
 *
 * Events: `change`, `join` and `leave` with a Member, `failed` with a WaterspoutError.
 */
export class Members extends Emitter {
  #channel;
  /** Joins and leaves that came while the list was on its way. @type {any[] | null} */
  #meanwhile = null;
  /** Since it was asked for, something may have been missed. */
  #stale = false;
  /** @type {Map<string, Member>} */
  users = new Map();
  count = 0;
  guests = 0;

  /** @param {Channel} channel */
  constructor(channel) {
    super();
    this.#channel = channel;
    for (const type of ["join", "leave", "occupancy"]) channel._hear(type, (push) => this.#take(push));
    for (const type of ["subscribed", "listening", "dropped"]) channel._hear(type, () => void this.refresh());
    if (channel.state !== "idle") void this.refresh();
  }

  /** @protected @param {boolean} now */
  _listenedTo(now) {
    this.#channel._membersListenedTo(now);
  }

  /** Ask again: the way to learn how many guests there are. */
  async refresh() {
    if (this.#meanwhile) {
      this.#stale = true;
      return;
    }
    this.#meanwhile = [];
    this.#stale = false;
    try {
      const { users, count, guests } = await this.#channel.presence();
      this.users = new Map(users.map((member) => [member.user, member]));
      this.count = count;
      this.guests = guests;
    } catch (error) {
      this.emit("failed", error);
    }
    const pushes = this.#meanwhile;
    this.#meanwhile = null;
    for (const push of pushes) this.#apply(push);
    this.emit("change");
    if (this.#stale) await this.refresh();
  }

  /** @param {any} push */
  #take(push) {
    if (this.#meanwhile) this.#meanwhile.push(push);
    else if (this.#apply(push)) this.emit("change");
  }

  /** Whether anything has changed by it. @param {any} push */
  #apply({ type, user, info, count, guests }) {
    if (type === "occupancy") {
      this.users.clear();
      this.count = count;
      this.guests = guests;
      return true;
    }
    if (this.users.size !== this.count) {
      void this.refresh(); // they were too many to be named, and are no longer
      return false;
    }
    if (this.users.has(user) === (type === "join")) return false;
    const member = this.users.get(user) ?? { user, sessions: 1, info };
    if (type === "join") this.users.set(user, member);
    else this.users.delete(user);
    this.count += type === "join" ? 1 : -1;
    this.emit(type, member);
    return true;
  }
}
