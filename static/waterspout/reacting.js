/** Reacting to messages, and what a timeline shows of it. @module */

import { LOST, WaterspoutError } from "./tools.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{k: string, n: number, u: string[]}} Reaction */
/** How it is then; what is told with this `at`, or a higher one, has it. @typedef {{of: number, kind: string, on: boolean, at: number}} Reacted */
/** `next`: what was asked for behind it. @typedef {{own: Promise<any>, result: Promise<Reacted>, next: Asked | null}} Asked */

/** Milliseconds that the push of what is stored may take. */
const LATE = 3000;
/** Messages that are looked up, to know which of their many reactions are one's own. */
const LOOKED_UP = 100;

/** What this client's reactions in a channel are to be: of what is asked for of the same one the last word counts, so what
 * was lost before it is not sent again. */
export class Reacting {
  #client;
  #channel;
  /** By message and kind. @type {Map<string, Asked>} */
  #asked = new Map();

  /** @param {Waterspout} client @param {string} channel */
  constructor(client, channel) {
    this.#client = client;
    this.#channel = channel;
  }

  /** @param {number} of @param {string} kind @param {boolean} on @returns {Promise<Reacted>} */
  set(of, kind, on) {
    const place = `${of} ${kind}`;
    const before = this.#asked.get(place);
    const wanted = () => asked.next === null;
    const own = Promise.resolve(before?.own).then(() => {
      if (!wanted()) throw new WaterspoutError(LOST);
      return this.#client._ask("react", { channel: this.#channel, of, kind, on }, () => true, wanted);
    });
    const ended = () => void (this.#asked.get(place) === asked && this.#asked.delete(place));
    const result = own.catch((error) => {
      if (!asked.next) throw error;
      return asked.next.result;
    });
    /** @type {Asked} */
    const asked = { own: own.then(ended, ended), result, next: null };
    if (before) before.next = asked;
    this.#asked.set(place, asked);
    return result;
  }
}

/** The reactions that a timeline shows: as they were counted, with what this client wants of them. */
export class Reactions {
  #channel;
  #user;
  #changed;
  /** Of the count that is shown, by offset. @type {Map<number, number>} */
  #at = new Map();
  /** Which of those that were counted are one's own, as far as that is known. @type {Map<number, string[]>} */
  #mine = new Map();
  /** What is wanted and not counted yet, by offset and kind; `at`: once that is known. @type {Map<number, Map<string, {on: boolean, at: number}>>} */
  #wishes = new Map();
  #looking = false;

  /** @param {import("./channel.js").Channel} channel @param {() => string | null} user @param {() => void} changed */
  constructor(channel, user, changed) {
    this.#channel = channel;
    this.#user = user;
    this.#changed = changed;
  }

  /** A message has come. @param {{offset: number, reactions?: Reaction[]}} message */
  put({ offset, reactions = [] }) {
    if (!this.#note(offset, reactions) && !this.#looking) void this.#lookUp();
  }

  /** @param {Record<string, string[]> | undefined} mine @param {{offset: number}[]} messages  of a page */
  learn(mine, messages) {
    for (const { offset } of mine ? messages : []) this.#mine.set(offset, mine?.[offset] ?? []);
  }

  /** The message, with what was counted. @param {any} message @param {{at: number, reactions: Reaction[]}} push */
  counted(message, { at, reactions }) {
    const { offset } = message;
    if (at < (this.#at.get(offset) ?? 0)) return message;
    this.#at.set(offset, at);
    this.#note(offset, reactions);
    for (const [kind, wish] of this.#wishes.get(offset) ?? []) this.#settle(offset, kind, wish);
    const { reactions: _, ...rest } = message;
    return reactions.length ? { ...rest, reactions } : rest;
  }

  /** @param {number} offset */
  forget(offset) {
    for (const all of [this.#at, this.#mine, this.#wishes]) all.delete(offset);
  }

  /** The message as it is to be shown. @param {any} message */
  shown(message) {
    const mine = this.#mine.get(message.offset) ?? [];
    const wishes = this.#wishes.get(message.offset) ?? [];
    let shown = mine.length && !message.deleted ? { ...message, mine } : message;
    for (const [kind, { on }] of message.deleted ? [] : wishes) shown = reacted(shown, kind, on, this.#user());
    return shown;
  }

  /** @param {number} offset @param {string} kind @param {boolean} on @param {Promise<Reacted>} asked */
  async want(offset, kind, on, asked) {
    const wish = { on, at: Infinity };
    const wishes = this.#wishes.get(offset) ?? new Map();
    this.#wishes.set(offset, wishes.set(kind, wish));
    this.#changed();
    try {
      const reply = await asked;
      wish.at = reply.at;
      // The count that has it has come already, or comes next.
      if (!this.#settle(offset, kind, wish))
        setTimeout(() => this.#settle(offset, kind, wish, 0) && this.#changed(), LATE);
      return reply;
    } catch (error) {
      this.#drop(offset, kind, wish);
      throw error;
    } finally {
      this.#changed();
    }
  }

  /** It is in what was counted: then that is shown, and known to be one's own.
   *
   * @param {number} offset @param {string} kind @param {{on: boolean, at: number}} wish */
  #settle(offset, kind, wish, at = wish.at) {
    if (at > (this.#at.get(offset) ?? 0) || !this.#drop(offset, kind, wish)) return false;
    const others = (this.#mine.get(offset) ?? []).filter((one) => one !== kind);
    this.#mine.set(offset, wish.on ? [...others, kind] : others);
    return true;
  }

  /** @param {number} offset @param {string} kind @param {object} wish */
  #drop(offset, kind, wish) {
    const wishes = this.#wishes.get(offset);
    if (wishes?.get(kind) !== wish) return false; // another word was said since
    wishes.delete(kind);
    if (!wishes.size) this.#wishes.delete(offset);
    return true;
  }

  /** Which are one's own, as far as names tell it; false: not of all. @param {number} offset @param {Reaction[]} reactions */
  #note(offset, reactions) {
    const user = this.#user();
    const known = this.#mine.get(offset);
    const unsure = (/** @type {Reaction} */ { n, u }) => user !== null && n > u.length && !u.includes(user);
    const own = reactions.filter((one) => (unsure(one) ? known?.includes(one.k) : user !== null && one.u.includes(user)));
    this.#mine.set(offset, own.map(({ k }) => k));
    return known !== undefined || !reactions.some(unsure);
  }

  async #lookUp() {
    this.#looking = true;
    try {
      const { mine, messages } = await this.#channel.history({ limit: LOOKED_UP });
      this.learn(mine, messages);
      this.#changed();
    } catch {
      // then it is shown without
    } finally {
      this.#looking = false;
    }
  }
}

/** A message with one's own reaction, or without it. @param {any} message @param {string} kind @param {boolean} on @param {string | null} user */
function reacted(message, kind, on, user) {
  /** @type {string[]} */
  const mine = message.mine ?? [];
  if (mine.includes(kind) === on) return message;
  /** @type {Reaction[]} */
  const all = message.reactions ?? [];
  const { n, u } = all.find(({ k }) => k === kind) ?? { n: 0, u: [] };
  const others = u.filter((name) => name !== user);
  const now = { k: kind, n: n + (on ? 1 : -1), u: on && user !== null ? [...others, user] : others };
  const listed = n ? all.map((one) => (one.k === kind ? now : one)) : [...all, now];
  const { mine: _, reactions: __, ...rest } = message;
  return {
    ...rest,
    reactions: listed.filter((one) => one.n > 0),
    mine: on ? [...mine, kind] : mine.filter((one) => one !== kind),
  };
}
