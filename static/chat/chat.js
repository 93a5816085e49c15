/**
 * The chat page. Rooms are the channels `chat:<room>`. Guests have no user on the wire, so the name travels in the
 * data: `{"name": "Ann", "text": "Hello"}`. Anybody may publish anything there: nothing is taken as it comes.
 *
 * @module
 */

import { $, element, recall, remember } from "../page.js";
import { randomKey, Waterspout } from "../waterspout.js";
import { hue, initial, Transcript } from "./transcript.js";

/** @typedef {import("./transcript.js").Entry} Entry */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./transcript.js").Draft} Draft */
/** @typedef {import("../waterspout.js").Channel} Channel */

const DEFAULT_ROOM = "lobby";
const PAGE = 50;
/** Entries of a room that nobody looks at; scrolling up brings older ones back from the server. */
const UNSEEN = 400;
/** How many entries and own keys a tab remembers of a room over a reload. */
const REMEMBERED = 100;
const MAX_NAME = 40;
const MAX_TEXT = 8000;
/** Who types says so this often, and is believed that long. Milliseconds. */
const SAY_TYPING = 2500;
const BELIEVE_TYPING = 4500;
/** Guests come and go unannounced, so now and then they are counted. */
const COUNT_EVERY = 15_000;

const STATES = new Map([
  ["connecting", "Connecting"],
  ["open", "Connected"],
  ["waiting", "Reconnecting"],
  ["closed", "Disconnected"],
]);

// --- data from outside ----------------------------------------------------------------------------------------------

/** One line without what could pass it off as another name: control, direction and zero-width characters.
 *
 * @param {any} value */
function cleanName(value) {
  if (typeof value !== "string") return "";
  const name = value
    .normalize("NFC")
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, "")
    .replace(/\s+/g, " ")
    .trim();
  return [...name].slice(0, MAX_NAME).join("");
}

/** A room's name as it can stand in a channel's: no white space, at most 255 bytes with `chat:`.
 *
 * @param {string} value */
function cleanRoom(value) {
  let room = value.normalize("NFC").trim().replace(/^#+/, "").toLowerCase();
  room = room.replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, "").replace(/\s+/g, "-");
  return [...room].slice(0, 60).join("");
}

/** What a message of the channel says to people. Never throws.
 *
 * @param {any} push @param {(key: string) => boolean} isMine @returns {Message} */
function readMessage({ key, offset, cursor, time, user, data }, isMine) {
  const spoken = data !== null && typeof data === "object" && typeof data.text === "string";
  const raw = !spoken && typeof data !== "string";
  const text = String(raw ? JSON.stringify(data) : spoken ? data.text : data);
  const name = (spoken && cleanName(data.name)) || cleanName(user) || "Anonymous";
  const when = Number.isFinite(time) && Math.abs(time) < 8.64e15 ? time : Date.now();
  return { key, offset, cursor, time: when, name, text: text.slice(0, MAX_TEXT), mine: isMine(key), raw };
}

/** @param {number} count @param {string} noun */
const some = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// --- a room ---------------------------------------------------------------------------------------------------------

/**
 * What this tab knows of a room: its newest messages, the cursor behind them, and what it has still to send there. All
 * of that is kept in the session's storage in one piece, so that a reloaded tab continues exactly where it was.
 */
class Room {
  /** @type {Entry[]} */
  entries = [];
  /** @type {Map<string, Draft>} */
  drafts = new Map();
  /** @type {string | null} */
  cursor = null;
  /** Whether older messages may be had; null until it is known. @type {boolean | null} */
  more = null;
  /** Messages that nobody has seen here yet. */
  unread = 0;
  /** Who types, and until when that is believed. @type {Map<string, number>} */
  typing = new Map();
  #saidTyping = 0;
  /** @type {Set<string>} */
  #keys = new Set();
  #entered = false;
  #marked = false;
  #loading = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;

  /** @param {string} name @param {Channel} channel @param {Page} page */
  constructor(name, channel, page) {
    this.name = name;
    this.channel = channel;
    this.page = page;
    this.#restore();
    channel.on("subscribed", ({ resumed }) => (this.#marked = !resumed));
    channel.on("message", (push) => (push.offset === undefined ? this.#takeTyping(push) : this.#take(push)));
    channel.members().on("change", () => page.present(this));
    channel.on("gap", (gap) => this.#takeGap(gap));
    channel.on("live", (event) => page.caughtUp(this, event));
    channel.on("ended", (error) => page.ended(this, error));
    for (const draft of this.drafts.values()) if (draft.state === "waiting") this.#publish(draft);
  }

  #restore() {
    const kept = recall("sessionStorage", `room.${this.name}`);
    if (!kept || !Array.isArray(kept.entries) || !Array.isArray(kept.drafts)) return;
    this.entries = kept.entries;
    this.cursor = kept.cursor;
    this.more = kept.more;
    this.#keys = new Set(kept.keys);
    for (const draft of kept.drafts) this.drafts.set(draft.key, draft);
  }

  save() {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    const { entries, cursor, more } = this;
    const trimmed = entries.length > REMEMBERED;
    remember("sessionStorage", `room.${this.name}`, {
      entries: entries.slice(-REMEMBERED),
      cursor,
      more: more || trimmed,
      keys: [...this.#keys].slice(-REMEMBERED),
      drafts: [...this.drafts.values()],
    });
  }

  /** Messages come by the thousand while one catches up. What is not saved yet is only read again after a reload. */
  #saveSoon() {
    this.#saving ??= setTimeout(() => this.save(), 300);
  }

  enter() {
    if (this.#entered) return;
    this.#entered = true;
    this.channel.subscribe(this.cursor === null ? { last: PAGE } : { after: this.cursor });
  }

  /** Ephemeral: somebody types, or does no longer. @param {any} push */
  #takeTyping({ data }) {
    const name = cleanName(data?.typing);
    if (!name) return;
    if (data.done) this.typing.delete(name);
    else this.typing.set(name, Date.now() + BELIEVE_TYPING);
    this.page.typing(this);
  }

  /** Say that somebody types here, or no longer does; not too often. @param {string} name @param {boolean} [done] */
  async sayTyping(name, done = false) {
    if (done ? !this.#saidTyping : Date.now() - this.#saidTyping < SAY_TYPING) return;
    this.#saidTyping = done ? 0 : Date.now();
    try {
      await this.channel.publish({ typing: name, ...(done ? { done } : {}) }, { ephemeral: true, echo: false });
    } catch {
      // away, or not allowed here: it is of no importance
    }
  }

  /** @param {any} push */
  #take(push) {
    const message = readMessage(push, (key) => this.#keys.has(key));
    if (this.channel.state === "replaying" && !this.#marked && !message.mine) {
      this.#marked = true;
      this.#add({ line: "While you were away", kind: "away" });
    } else if (!message.mine && !this.unread && !this.page.sees(this)) {
      this.#mark();
    }
    if (!message.mine && !this.page.sees(this)) this.unread++;
    this.typing.delete(message.name);
    this.page.typing(this);
    this.drafts.delete(message.key);
    this.cursor = message.cursor;
    if (this.more === null) this.more = message.offset > 1;
    this.#add(message);
    if (!message.mine) this.page.heard(this);
  }

  /** Here begins what nobody has seen; where it began the last time is of no interest any more. */
  #mark() {
    if ("line" in (this.entries.at(-1) ?? {})) return;
    this.entries = this.entries.filter((entry) => !("line" in entry) || entry.kind !== "away");
    this.page.unmark(this);
    this.#add({ line: "New", kind: "away" });
  }

  /** @param {any} gap */
  #takeGap({ from, to }) {
    // What was stored within it is never coming.
    for (const draft of [...this.drafts.values()]) {
      const comes = Number.isInteger(to) && (draft.offset ?? 0) > to;
      if (draft.state === "sent" && !comes) this.page.discard(this, draft.key);
    }
    if (Number.isInteger(from) && Number.isInteger(to)) {
      const count = to - from + 1;
      const were = count === 1 ? "message is" : "messages are";
      this.#add({ line: `${count} older ${were} no longer kept by the server`, kind: "gap" });
    } else {
      // Another history: what is shown is not a part of it, and its own messages follow.
      this.entries = [];
      this.more = null;
      this.page.redraw(this);
      this.#add({ line: "The history of this room was started anew", kind: "gap" });
    }
  }

  /** @param {Entry} entry */
  #add(entry) {
    this.entries.push(entry);
    if (this.entries.length > 1.2 * UNSEEN && this.page.room !== this) {
      this.entries.splice(0, this.entries.length - UNSEEN);
      this.more = true;
    }
    this.#saveSoon();
    this.page.append(this, entry);
    if (this.entries.length === 1) this.page.edge(this);
  }

  /** The newest part only is shown after all. @param {Message} first */
  trimmed(first) {
    this.entries.splice(0, this.entries.indexOf(first));
    this.more = true;
  }

  /** @param {string} name @param {string} text */
  say(name, text) {
    /** @type {Draft} */
    const draft = { key: randomKey(), name, text, time: Date.now(), mine: true, state: "waiting" };
    this.#keys.add(draft.key);
    this.#publish(draft);
  }

  /** @param {string} key */
  again(key) {
    const draft = this.drafts.get(key);
    if (draft) this.#publish({ ...draft, state: "waiting", error: undefined });
  }

  /** @param {string} key */
  discard(key) {
    this.drafts.delete(key);
    this.save();
  }

  /** The same key each time, over reloads too: however often it is sent, it is stored once. @param {Draft} draft */
  async #publish(draft) {
    const { key, name, text } = draft;
    this.#update(draft);
    this.save(); // at once: this is what cannot be read again
    try {
      const { offset } = await this.channel.publish({ name, text }, { key });
      if (this.drafts.has(key)) this.#update({ ...draft, state: "sent", offset }); // else the message itself was faster
    } catch (/** @type {any} */ error) {
      if (this.drafts.has(key)) this.#update({ ...draft, state: "failed", error: error.reason ?? String(error) });
    }
  }

  /** @param {Draft} draft */
  #update(draft) {
    this.drafts.set(draft.key, draft);
    this.#saveSoon();
    this.page.draft(this, draft);
  }

  /** The page before the oldest message shown. */
  async older() {
    const first = this.entries.find((entry) => "offset" in entry);
    if (!first || !this.more || this.#loading || this.channel.state !== "live") return;
    this.#loading = true;
    try {
      const { messages, more } = await this.channel.history({
        before: /** @type {Message} */ (first).cursor,
        limit: PAGE,
      });
      if (!this.entries.includes(first)) return; // trimmed or started anew meanwhile
      const entries = messages.map((push) => readMessage(push, (key) => this.#keys.has(key)));
      this.entries.unshift(...entries);
      this.more = more;
      this.page.prepend(this, entries);
    } catch {
      // told by the connection's state; the next scroll tries again
    } finally {
      this.#loading = false;
      this.page.edge(this);
    }
  }
}

// --- the page -------------------------------------------------------------------------------------------------------

class Page {
  client = new Waterspout();
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** @type {string[]} */
  visited = [];
  name = cleanName(recall("localStorage", "name"));
  /** @type {any} */
  #ticking;
  #transcript;
  /** @type {Room} */
  room;

  constructor() {
    this.#transcript = new Transcript(
      { scroller: $("scroller"), log: $("log"), outbox: $("outbox"), edge: $("edge"), newest: $("newest") },
      {
        older: () => void this.room.older(),
        again: (key) => this.room.again(key),
        discard: (key) => this.discard(this.room, key),
      },
    );
    this.#transcript.onTrim = (first) => this.room.trimmed(first);
    const visited = recall("localStorage", "rooms");
    if (Array.isArray(visited))
      this.visited = visited.filter((room) => typeof room === "string" && cleanRoom(room) === room);
    this.room = this.#open(this.#roomOfAddress());
    this.#bind();
    this.client.on("state", (event) => this.#showState(event));
    this.client.on("resumed", ({ count }) => this.#welcomeBack(count));
    this.#showState({ state: this.client.state });
    this.#showName();
  }

  #bind() {
    window.addEventListener("hashchange", () => this.#open(this.#roomOfAddress()));
    window.addEventListener("pagehide", () => this.#saveAll());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#saveAll();
      else this.#seen();
    });
    setInterval(() => document.hidden || void this.room.channel.members().refresh(), COUNT_EVERY);
    setInterval(() => this.typing(this.room), 1000);

    $("go").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const room = cleanRoom($("go-room").value);
      $("go-room").value = "";
      if (room) location.hash = encodeURIComponent(room);
    });
    $("composer").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#send();
    });
    $("text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    $("text").addEventListener("input", () => {
      this.#fitText();
      void this.room.sayTyping(this.name, !$("text").value.trim());
    });
    $("introduce").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#introduce();
    });
    $("name").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && this.name) this.#showName(true);
    });
    $("me").addEventListener("click", () => {
      this.#drawer(false, false);
      this.#askName();
    });
    $("banner")
      .querySelector("button")
      .addEventListener("click", () => this.client.connect());

    $("menu").addEventListener("click", () => this.#drawer(true));
    $("scrim").addEventListener("click", () => this.#drawer(false));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && $("side").matches(".shown")) this.#drawer(false);
    });
    matchMedia("(min-width: 761px)").addEventListener("change", () => this.#drawer(false, false));

    // iOS lays its keyboard over the page; pinching changes the same height, and is left alone.
    const viewport = window.visualViewport;
    viewport?.addEventListener("resize", () => {
      if (viewport.scale > 1.01) return;
      document.documentElement.style.setProperty("--height", `${viewport.height}px`);
      window.scrollTo(0, 0);
    });
  }

  // the rooms

  #roomOfAddress() {
    let room = location.hash.slice(1);
    try {
      room = decodeURIComponent(room);
    } catch {
      // a % that stands for itself
    }
    return cleanRoom(room) || DEFAULT_ROOM;
  }

  /** @param {string} name */
  #open(name) {
    let room = this.rooms.get(name);
    if (!room) {
      room = new Room(name, this.client.channel(`chat:${name}`), this);
      this.rooms.set(name, room);
    }
    if (room === this.room) return room;
    this.room = room; // the others stay subscribed, and count what comes
    room.unread = 0;
    if (!this.visited.includes(name)) {
      this.visited = [...this.visited, name].slice(-20);
      remember("localStorage", "rooms", this.visited);
    }
    this.#showRooms();
    this.#title();
    $("title").textContent = name;
    $("text").placeholder = `Message #${name}`;
    this.redraw(room);
    this.present(room);
    this.typing(room);
    room.enter();
    this.#drawer(false, false);
    return room;
  }

  #showRooms() {
    const shown = this.visited.includes(DEFAULT_ROOM) ? this.visited : [DEFAULT_ROOM, ...this.visited];
    $("rooms").replaceChildren(
      ...shown.map((room) => {
        const link = element("a", "", room);
        link.href = `#${encodeURIComponent(room)}`;
        const unread = this.rooms.get(room)?.unread ?? 0;
        if (room === this.room.name) link.setAttribute("aria-current", "page");
        else if (unread) {
          const badge = element("span", "badge", unread > 99 ? "99+" : String(unread));
          badge.append(element("span", "hidden-label", " unread"));
          link.append(badge);
        }
        link.addEventListener("click", () => this.#drawer(false, false));
        return element("li", "", link);
      }),
    );
  }

  #title() {
    const unread = [...this.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${this.room.name} · Waterspout`;
  }

  #saveAll() {
    for (const room of this.rooms.values()) room.save();
  }

  // what a room tells

  /** @param {Room} room */
  redraw(room) {
    if (room !== this.room) return;
    this.#transcript.show(room.entries, [...room.drafts.values()]);
    this.edge(room);
  }

  /** @param {Room} room @param {Entry} entry */
  append(room, entry) {
    if (room === this.room) this.#transcript.append(entry, room.channel.state === "replaying");
  }

  /** @param {Room} room @param {Entry[]} entries */
  prepend(room, entries) {
    if (room === this.room) this.#transcript.prepend(entries);
  }

  /** @param {Room} room @param {Draft} draft */
  draft(room, draft) {
    if (room === this.room) this.#transcript.draft(draft);
  }

  /** Whether somebody looks at this room. @param {Room} room */
  sees(room) {
    return room === this.room && !document.hidden;
  }

  #seen() {
    this.room.unread = 0;
    this.#title();
  }

  /** @param {Room} room */
  heard(room) {
    if (this.sees(room)) return;
    this.#title();
    if (room !== this.room) this.#showRooms();
  }

  /** @param {Room} room */
  unmark(room) {
    if (room === this.room) this.#transcript.unmark();
  }

  /** How many are here. @param {Room} room */
  present(room) {
    if (room !== this.room) return;
    const { users, count, guests } = room.channel.members();
    const here = count + guests;
    $("present").hidden = here === 0;
    $("present").querySelector("b").textContent = String(here);
    const names = [...users.keys()].map((user) => cleanName(user)).sort();
    if (count > names.length) names.push(some(count - names.length, "user")); // of many the names are not told
    if (guests) names.push(some(guests, "guest"));
    $("people").replaceChildren(...names.map((name) => element("li", "", name)));
  }

  /** Who types. @param {Room} room */
  typing(room) {
    if (room !== this.room) return;
    const now = Date.now();
    for (const [name, until] of room.typing) if (until < now) room.typing.delete(name);
    const names = [...room.typing.keys()];
    const [first, second] = names;
    const words =
      names.length === 0
        ? ""
        : names.length === 1
          ? `${first} is typing`
          : names.length === 2
            ? `${first} and ${second} are typing`
            : `${names.length} people are typing`;
    $("typing").classList.toggle("shown", words !== "");
    const said = $("typing").querySelector("span");
    if (words && said.textContent !== words) said.textContent = words;
  }

  /** @param {Room} room @param {string} key */
  discard(room, key) {
    room.discard(key);
    if (room === this.room) this.#transcript.discard(key);
  }

  /** The words above the first message. @param {Room} room */
  edge(room) {
    if (room !== this.room) return;
    const first = /** @type {Message | undefined} */ (room.entries.find((entry) => "offset" in entry));
    if (room.more) this.#transcript.edge("Older messages appear as you scroll up");
    else if (first && first.offset > 1) this.#transcript.edge("Older messages are no longer kept");
    else if (first || room.channel.state === "live") {
      const heading = element("strong", "", first ? `Welcome to #${room.name}` : "Nothing here yet");
      this.#transcript.edge(
        heading,
        first ? "This is where the conversation began." : `Say the first word in #${room.name}.`,
      );
    } else this.#transcript.edge();
  }

  /** @param {Room} room @param {{count: number, resumed: boolean}} event */
  caughtUp(room, { count, resumed }) {
    this.edge(room);
    // After a reload; a connection that came back tells by itself (`resumed`).
    if (resumed && count && room === this.room && $("banner").hidden) this.#welcomeBack(count);
  }

  /** @param {Room} room @param {{reason: string}} error */
  ended(room, error) {
    if (room === this.room) this.#banner("bad", `This room cannot be read: ${error.reason}.`);
  }

  // the connection

  /** @param {any} event */
  #showState({ state, at, reason }) {
    document.body.dataset.state = state;
    $("state").querySelector(".word").textContent = STATES.get(state);
    clearInterval(this.#ticking);
    if (state === "waiting") {
      this.#banner("warn", `${navigator.onLine ? "No connection" : "You are offline"}, your messages wait.`, "Try now");
      const countdown = $("banner").querySelector(".countdown");
      const tick = () => {
        const seconds = Math.max(0, Math.ceil((at - Date.now()) / 1000));
        countdown.textContent = `Next attempt in ${seconds} s`;
      };
      tick();
      this.#ticking = setInterval(tick, 250);
    } else if (state === "closed") {
      this.#banner("bad", `Disconnected: ${reason || "the server ended the connection"}.`, "Connect");
    } else if (state === "connecting" && !$("banner").hidden) {
      $("banner").querySelector(".countdown").textContent = "Connecting…";
      $("banner").querySelector("button").hidden = true;
    } else if (state === "open" && $("banner").dataset.kind !== "good") {
      $("banner").hidden = true;
    }
  }

  /** @param {number} count */
  #welcomeBack(count) {
    this.#banner(
      "good",
      count ? `Connected again, ${some(count, "message")} caught up.` : "Connected again, nothing missed.",
    );
    this.#ticking = setTimeout(() => ($("banner").hidden = true), 5000);
  }

  /** @param {"good" | "warn" | "bad"} kind @param {string} words @param {string} [action] */
  #banner(kind, words, action) {
    clearTimeout(this.#ticking);
    const banner = $("banner");
    banner.hidden = false;
    banner.dataset.kind = kind;
    const said = banner.querySelector(".words");
    if (said.textContent !== words) said.textContent = words; // not read out again at every attempt
    banner.querySelector(".countdown").textContent = "";
    const button = banner.querySelector("button");
    button.hidden = !action;
    button.textContent = action ?? "";
  }

  // writing

  #send() {
    const text = $("text").value.trim();
    if (!text) return;
    $("text").value = "";
    this.#fitText();
    this.#transcript.toEnd();
    this.room.say(this.name, text);
    void this.room.sayTyping(this.name, true);
    $("text").focus();
  }

  #fitText() {
    const text = $("text").value;
    $("text").parentElement.dataset.text = text;
    $("composer").classList.toggle("empty", !text.trim());
  }

  // the name

  #introduce() {
    const name = cleanName($("name").value);
    if (!name) return $("name").focus();
    this.name = name;
    remember("localStorage", "name", name);
    this.#showName(true);
  }

  #askName() {
    $("name").value = this.name;
    $("introduce").hidden = false;
    $("composer").hidden = true;
    $("name").select();
    $("name").focus();
  }

  /** @param {boolean} [focus] */
  #showName(focus = false) {
    $("introduce").hidden = this.name !== "";
    $("composer").hidden = this.name === "";
    $("me").hidden = this.name === "";
    const avatar = $("me").querySelector(".avatar");
    avatar.className = `avatar ${hue(this.name)}`;
    avatar.textContent = initial(this.name);
    $("me").querySelector("b").textContent = this.name;
    this.#fitText();
    if (focus) $("text").focus();
  }

  /** The side bar as a drawer, on narrow screens. @param {boolean} shown @param {boolean} [refocus] */
  #drawer(shown, refocus = true) {
    $("side").classList.toggle("shown", shown);
    $("scrim").hidden = !shown;
    $("main").inert = shown;
    $("menu").setAttribute("aria-expanded", String(shown));
    if (shown) $("side").querySelector("a")?.focus();
    else if (refocus) $("menu").focus();
  }
}

new Page();
