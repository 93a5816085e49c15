/**
 * What is opened beside the conversation or over it. Each is loaded when it is asked for the first time: most visits need
 * none of it.
 *
 * @module
 */

import { $, element } from "../page.js";
import { addressOf } from "./address.js";
import { Panel } from "./panel.js";
import { DIRECT, readMessage } from "./words.js";

/** @typedef {import("./chat.js").Page} Page */
/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./memberships.js").ThreadRow} ThreadRow */
/** @typedef {"members" | "search" | "pins" | "threads" | "preferences"} Kind */

/** The button of each has its name. @type {Kind[]} */
const KINDS = ["members", "search", "pins", "threads", "preferences"];

export class Beside {
  #page;
  #panel = new Panel();
  /** @type {import("./thread.js").ThreadPanel | null} */
  thread = null;
  /** @type {import("./threads.js").ThreadsPanel | null} */
  #threads = null;
  /** @type {import("./palette.js").JumpPalette | null} */
  #palette = null;
  /** @type {import("./profile.js").Profile | null} */
  #profile = null;
  /** @type {import("./picker.js").Picker | null} */
  #picker = null;
  /** What was asked for last: what comes late is not opened. */
  #asked = 0;

  /** @param {Page} page */
  constructor(page) {
    this.#page = page;
    for (const kind of KINDS) $(kind).addEventListener("click", () => (this.#panel.kind === kind ? this.#panel.close() : void this.open(kind)));
    $("jump").addEventListener("click", () => void this.jump());
  }

  /** @param {Kind} kind @param {string} [words]  to search for */
  open(kind, words) {
    this.#page.list.sidebar.close();
    if (kind === "members") return this.#openMembers();
    if (kind === "search") return this.#openSearch(words);
    if (kind === "pins") return this.#openPins();
    return kind === "threads" ? this.#openThreads() : this.#openPreferences();
  }

  /** Another room is shown. */
  close() {
    this.#asked++;
    this.#panel.close(false);
  }

  /** A module and the style sheet of its kind, unless something else was asked for while they came, or the server is away.
   *
   * @template T @param {Promise<T>} module @param {"panel" | "over"} kind @returns {Promise<Partial<T>>} */
  async #load(module, kind = "panel") {
    const asked = ++this.#asked;
    try {
      const [loaded] = await Promise.all([module, styled(kind)]);
      return asked === this.#asked ? loaded : {};
    } catch {
      this.#page.banner.say("bad", "That part of the page could not be loaded. Try again in a moment.");
      return {};
    }
  }

  async #openMembers() {
    const { MembersPanel } = await this.#load(import("./members.js"));
    const { room, me } = this.#page;
    if (!MembersPanel || me === null) return;
    new MembersPanel(this.#panel, room, me, {
      say: (words) => this.#page.banner.say("bad", words),
      onleave: () => this.#page.leave(room.name),
      row: this.#page.list.of(room.channel.name),
      talk: this.talk,
    });
  }

  async #openSearch(words = "") {
    const { SearchPanel } = await this.#load(import("./search.js"));
    if (SearchPanel) new SearchPanel(this.#page, this.#panel, this.#page.room, (room, offset) => void this.find(room, offset), words);
  }

  async #openPins() {
    const { PinsPanel } = await this.#load(import("./pins.js"));
    const { room, me } = this.#page;
    if (!PinsPanel) return;
    new PinsPanel(this.#panel, room, me, {
      show: (offset) => void this.find(room.name, offset),
      change: (change) => void this.#page.change(change),
    });
  }

  async #openThreads() {
    const { ThreadsPanel } = await this.#load(import("./threads.js"));
    if (!ThreadsPanel) return;
    this.#threads = new ThreadsPanel(this.#page, this.#panel, {
      rows: () => this.#page.list.threads(),
      open: (row) => void this.openThread(row),
      onclose: () => (this.#threads = null),
    });
  }

  async #openPreferences() {
    const { PreferencesPanel } = await this.#load(import("./preferences.js"));
    if (PreferencesPanel) new PreferencesPanel(this.#panel, this.#page.notices, this.#page.blocks);
  }

  /** The thread of a message; one that came out of a thread is answered there. @param {Room} room @param {Message} message */
  async answer(room, message) {
    const offset = message.thread ? Number(message.thread.split(":")[1]) : message.offset;
    const { ThreadPanel } = await this.#load(import("./thread.js"));
    if (!ThreadPanel || room !== this.#page.room) return;
    const root = room.message(offset) ?? message;
    this.thread = new ThreadPanel(this.#page, this.#panel, room, { ...root, offset }, {
      actionsOf: (made) => this.#page.actionsOf(() => made),
      author: () => this.#page.composer.name,
      onclose: () => (this.thread = null),
    });
    this.#page.edge(this.thread.room);
    this.#page.counted();
  }

  /** One that is followed, wherever it is. @param {ThreadRow} row */
  async openThread({ room: name, parent, of }) {
    if (name !== this.#page.room.name) history.pushState(null, "", addressOf(name));
    const room = this.#page.open(name);
    try {
      if (!room.known) await room.look(this.#page.get);
      const root = room.message(of) ?? readMessage(await this.#page.get(`/v1/channels/${encodeURIComponent(parent)}/messages/${of}`), () => false);
      await this.answer(room, root);
    } catch (/** @type {any} */ error) {
      this.#page.banner.say("bad", `This thread cannot be read: ${error.reason ?? error}.`);
    }
  }

  /** Show where a message is. @param {string} name  of the room @param {number} offset */
  async find(name, offset) {
    if (matchMedia("(max-width: 1100px)").matches) this.#panel.close(false);
    if (name !== this.#page.room.name) history.pushState(null, "", addressOf(name));
    const room = this.#page.open(name);
    await room.reach(offset);
    if (!this.#page.point(room, offset)) this.#page.banner.say("bad", "That is too far back to be shown here.");
  }

  /** The threads, or what is unread in them, are others. */
  threadsChanged() {
    this.#threads?.draw();
  }

  /** To a room, a person, a thread, a panel. */
  async jump() {
    const { JumpPalette, targetsFor } = await this.#load(import("./palette.js"), "over");
    if (!JumpPalette || !targetsFor) return;
    this.#page.list.sidebar.close();
    this.#palette ??= new JumpPalette();
    this.#palette.open((words) => targetsFor(this.#page, this, words));
  }

  /** Write to somebody alone; null: there is no such thing here. */
  get talk() {
    if (!this.#page.people.talks) return null;
    return (/** @type {string} */ user) => this.#page.go(`/${this.#page.client.direct(DIRECT, user).name}`);
  }

  /** Who somebody is. @param {HTMLElement} opener @param {string} user */
  async profile(opener, user) {
    const { Profile } = await this.#load(import("./profile.js"), "over");
    const { people, blocks, composer, room } = this.#page;
    if (!Profile || !blocks) return;
    this.#profile ??= new Profile();
    const { talk } = this;
    const calls = people.names.includes(user) && room.may.has("publish");
    this.#profile.open(opener, user, {
      role: people.roles.get(user) ?? null,
      blocked: blocks.has(user),
      talk: talk && (() => talk(user)),
      call: calls ? () => composer.call(user) : null,
      block: (on) => void this.#page.change(blocks.set(user, on)),
    });
  }

  /** A reaction, or an emoji. @param {HTMLElement} button @param {(kind: string) => void} chosen */
  async pick(button, chosen) {
    const { Picker } = await this.#load(import("./picker.js"), "over");
    if (Picker) (this.#picker ??= new Picker()).open(button, chosen);
  }
}

/** @type {Map<string, Promise<any>>} */
const sheets = new Map();

/** @param {string} name  of a style sheet */
function styled(name) {
  let sheet = sheets.get(name);
  if (sheet) return sheet;
  const link = element("link");
  link.rel = "stylesheet";
  link.href = new URL(`./${name}.css`, import.meta.url).href;
  sheet = new Promise((resolve, reject) => {
    link.onload = resolve;
    link.onerror = () => {
      sheets.delete(name);
      link.remove();
      reject(new Error(`no ${name}.css`));
    };
  });
  sheets.set(name, sheet);
  document.head.append(link);
  return sheet;
}
