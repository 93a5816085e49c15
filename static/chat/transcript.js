/**
 * The conversation as it is seen: rows, what groups them, and the scroll position. It knows no server.
 *
 * @module
 */

import { element } from "../page.js";
import { Rows } from "./message.js";

/**
 * @typedef {object} Message  one message, checked and ready to show
 * @property {string} key
 * @property {number} offset
 * @property {string} cursor
 * @property {number} time   ms
 * @property {string} name
 * @property {string} text
 * @property {boolean} mine
 * @property {boolean} raw   not from a chat page: `text` is its data as JSON
 * @property {string | null} user
 * @property {number} version  the offset of its last edit
 * @property {boolean} edited
 * @property {boolean} erased
 * @property {boolean} pinned
 * @property {{k: string, n: number, u: string[]}[]} counted  its reactions, as the server counts them
 * @property {{k: string, n: number, u: string[], mine: boolean}[]} [reactions]  with those that are on their way
 * @property {string[]} mentions  names of users, or `*`
 * @property {string} [thread]  the channel of the thread that it was said in as well
 * @property {boolean} [writing]  its text is still streaming in
 * @property {{count: number, newest: string, users: string[]}} [replies]
 * @property {number} [repliesAt]  of two counts the one with the higher number is right
 */

/** @typedef {{line: string, kind: "gap" | "away"}} Line  a remark between messages */
/** @typedef {Message | Line} Entry */

/** @typedef {import("./outgoing.js").Outgoing} Outgoing */

/** Messages this near to each other, of one author, form a group. */
const GROUP = 5 * 60_000;
/** More rows are taken off at the top, while nobody reads there; scrolling up brings them back from the server. */
const MOST_ROWS = 400;
/** Pixels from the end that still count as being there. */
const NEAR = 60;

const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

export class Transcript {
  #scroller;
  #rows;
  #made;
  #outbox;
  #edge;
  #newest;
  /** @type {WeakMap<Element, Entry | Outgoing>} */
  #entries = new WeakMap();
  /** @type {Map<string, HTMLElement>} one's own on their way, by key */
  #pending = new Map();
  #atEnd = true;
  #top = 0;
  #unseen = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #quiet;

  /** Rows were taken off at the top: called with the first message left. @type {(first: Message) => void} */
  onTrim = () => {};

  /**
   * @param {Record<"scroller" | "log" | "outbox" | "edge" | "newest", HTMLElement>} parts
   * @param {import("./message.js").Actions & {older: () => void, read?: () => void}} actions
   */
  constructor({ scroller, log, outbox, edge, newest }, actions) {
    this.#scroller = scroller;
    this.#rows = /** @type {HTMLElement} */ (log.querySelector("ol"));
    this.#outbox = outbox;
    this.#edge = edge;
    this.#newest = newest;
    this.log = log;
    this.actions = actions;
    this.#made = new Rows(actions);
    for (const near of ["pointerover", "focusin"]) this.#rows.addEventListener(near, (event) => this.#near(event));
    scroller.addEventListener("keydown", (event) => this.#move(event));
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    newest.addEventListener("click", () => this.toEnd());
    // Rows, a keyboard that opens, a turned phone, a growing message field: who is at the end stays there. Once a frame,
    // between layout and paint, however many messages are caught up in one go.
    const observer = new ResizeObserver(() => {
      this.#keepEnd();
      if (this.#nearTop) this.actions.older(); // may be too short to be scrolled
    });
    for (const part of [scroller, edge, log, outbox]) observer.observe(part);
  }

  /** @param {Entry[]} entries @param {Outgoing[]} outgoing */
  show(entries, outgoing) {
    this.#quietly(() => {
      this.#rows.replaceChildren();
      this.#outbox.replaceChildren();
      this.#pending.clear();
      this.#rows.append(...entries.map((entry) => this.#row(entry)));
      for (const row of this.#rows.querySelectorAll(".message")) this.#arrange(row);
      for (const message of outgoing) this.outgoing(message);
    });
    this.toEnd();
  }

  /** One more at the end; of many at once none is read out. @param {Entry} entry @param {boolean} [many] */
  append(entry, many = false) {
    if (many) this.#quietly(() => this.#append(entry));
    else this.#append(entry).classList.add("came");
  }

  /** @param {Entry} entry */
  #append(entry) {
    const row = this.#row(entry);
    this.#rows.append(row);
    if (!("line" in entry)) {
      this.#arrange(row);
      if (this.#pending.has(entry.key)) this.#dropOutgoing(entry.key);
      else if (!this.#atEnd && !entry.mine) this.#count(1);
    }
    this.#arrangeLast();
    if (this.#atEnd) this.#trim();
    return row;
  }

  /** A page of the past above everything, without moving what is being read. @param {Entry[]} entries */
  prepend(entries) {
    if (!entries.length) return;
    this.#quietly(() => {
      const { scrollHeight, scrollTop } = this.#scroller;
      const next = this.#rows.querySelector(".message");
      const rows = entries.map((entry) => this.#row(entry));
      this.#rows.prepend(...rows);
      for (const row of [...rows, next]) if (row?.matches(".message")) this.#arrange(row);
      this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
    });
  }

  /** It was edited or erased. @param {Message} entry */
  replace(entry) {
    const old = this.rowOf(entry.offset);
    if (!old) return;
    this.#quietly(() => {
      const row = this.#row(entry);
      this.#made.replace(old, row, entry);
      this.#arrange(row);
      const next = row.nextElementSibling;
      if (next?.matches(".message")) this.#arrange(next);
    });
  }

  /** Show an own message on its way, or what has become of it. @param {Outgoing} message */
  outgoing(message) {
    const row = this.#made.outgoing(message);
    this.#entries.set(row, message);
    const old = this.#pending.get(message.key);
    if (old) old.replaceWith(row);
    else this.#outbox.append(row);
    this.#pending.set(message.key, row);
    this.#arrange(row);
  }

  /** @param {string} key */
  #dropOutgoing(key) {
    const row = this.#pending.get(key);
    this.#pending.delete(key);
    const after = row?.nextElementSibling;
    row?.remove();
    if (after) this.#arrange(after);
  }

  /** Take one of them away. @param {string} key */
  discard(key) {
    this.#dropOutgoing(key);
    this.#arrangeLast();
  }

  /** What stands above the first row. @param {...(Node | string)} words */
  edge(...words) {
    const { scrollHeight, scrollTop } = this.#scroller;
    this.#edge.replaceChildren(...words);
    if (!this.#atEnd) this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
  }

  /** Take away the line above what was new. */
  unmark() {
    for (const line of this.#rows.querySelectorAll(".line.away")) {
      const after = line.nextElementSibling;
      line.remove();
      if (after?.matches(".message")) this.#arrange(after);
    }
  }

  /** What may be done with messages has changed. */
  forgetTools() {
    for (const bar of this.#rows.querySelectorAll(".tools")) bar.remove();
  }

  /** To the line above what was new, where that is further up than one can see from the end. */
  toLine() {
    const line = this.#rows.querySelector(".line.away");
    if (!line || line.getBoundingClientRect().top >= this.#scroller.getBoundingClientRect().top) return;
    this.#atEnd = false;
    line.scrollIntoView({ block: "start" });
    this.#top = this.#scroller.scrollTop;
    this.#count(0);
  }

  /** The row of a message, if it is shown. @param {number} offset */
  rowOf(offset) {
    for (const row of this.#rows.children) {
      const entry = /** @type {any} */ (this.#entries.get(row));
      if (entry?.offset === offset) return /** @type {HTMLElement} */ (row);
    }
    return null;
  }

  /** Show where a message is, for a moment. @param {number} offset */
  point(offset) {
    const row = this.rowOf(offset);
    if (!row) return false;
    this.#atEnd = false;
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
    row.classList.add("pointed");
    setTimeout(() => row.classList.remove("pointed"), 2000);
    return true;
  }

  /** Edit the newest of one's own, as from an empty field. */
  editLast() {
    const row = [...this.#rows.querySelectorAll(".mine:not(:has(.erased))")].at(-1);
    if (row) this.#made.edit(/** @type {Message} */ (this.#entries.get(row)), /** @type {HTMLElement} */ (row));
  }

  /** @param {Event} event */
  #near({ target }) {
    const row = /** @type {HTMLElement | null} */ (/** @type {Element} */ (target).closest(".message"));
    if (row) this.#made.tools(/** @type {Message} */ (this.#entries.get(row)), row);
  }

  /** From message to message by the arrows, once one has the focus. @param {KeyboardEvent} event */
  #move(event) {
    const rows = /** @type {HTMLElement[]} */ ([...this.#rows.querySelectorAll(".message")]);
    const at = rows.findIndex((row) => row.contains(/** @type {Node} */ (event.target)));
    /** @type {Record<string, number>} */
    const places = { ArrowUp: at < 0 ? rows.length - 1 : at - 1, ArrowDown: at + 1, Home: 0, End: rows.length - 1 };
    const row = rows[places[event.key] ?? -1];
    if (!row || (at < 0 && event.key !== "ArrowUp")) return;
    event.preventDefault();
    row.focus();
  }

  get atEnd() {
    return this.#atEnd;
  }

  toEnd() {
    this.#atEnd = true;
    this.#count(-this.#unseen);
    this.#keepEnd();
  }

  /** Older messages should be fetched. */
  get #nearTop() {
    return this.#scroller.scrollTop < 300;
  }

  /** @param {Entry} entry @returns {HTMLElement} */
  #row(entry) {
    const row = "line" in entry ? element("li", `line ${entry.kind}`, entry.line) : this.#made.message(entry);
    this.#entries.set(row, entry);
    return row;
  }

  /** Group a row with the message before it, or put the day above it. @param {Element} row */
  #arrange(row) {
    const inLog = row.parentElement === this.#rows;
    let before = row.previousElementSibling ?? (inLog ? null : this.#rows.lastElementChild);
    if (before?.matches(".day")) {
      const day = before;
      before = day.previousElementSibling;
      day.remove();
    }
    let last = before;
    while (last && !last.matches(".message")) last = last.previousElementSibling;
    const entry = /** @type {Message} */ (this.#entries.get(row));
    const previous = last && /** @type {Message} */ (this.#entries.get(last));
    const sameDay = previous !== null && dayOf(previous.time) === dayOf(entry.time);
    if (inLog && !sameDay) row.before(element("li", "line day", element("span", "", dayOf(entry.time))));
    const quiet =
      sameDay &&
      last === before &&
      previous.name === entry.name &&
      previous.mine === entry.mine &&
      Math.abs(entry.time - previous.time) < GROUP;
    row.classList.toggle("quiet", quiet);
  }

  #arrangeLast() {
    const first = this.#outbox.firstElementChild;
    if (first) this.#arrange(first);
  }

  #trim() {
    let extra = this.#rows.childElementCount - MOST_ROWS;
    if (extra < MOST_ROWS / 4) return; // in lots, since each one is a search for a new first row
    while (extra-- > 0) this.#rows.firstElementChild?.remove();
    this.#top = 0;
    const first = this.#rows.querySelector(".message");
    if (!first) return;
    this.#arrange(first);
    this.onTrim(/** @type {Message} */ (this.#entries.get(first)));
  }

  /** Change the log without having a screen reader read it all out. @param {() => void} change */
  #quietly(change) {
    this.log.ariaLive = "off";
    change();
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => (this.log.ariaLive = "polite"), 500);
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    // The end moves away when rows are added, and this event may come after more of them: only going up is leaving it.
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    const atEnd = near || (this.#atEnd && scrollTop >= this.#top);
    this.#top = scrollTop;
    if (atEnd !== this.#atEnd) {
      this.#atEnd = atEnd;
      if (atEnd) this.#count(-this.#unseen);
      else this.#count(0);
      if (atEnd) this.actions.read?.();
    }
    // Who is at the end, to which this has not come yet, is only near the top as long as that lasts.
    if (this.#nearTop && (near || !atEnd)) this.actions.older();
  }

  #keepEnd() {
    if (!this.#atEnd) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
  }

  /** @param {number} more */
  #count(more) {
    this.#unseen += more;
    this.#newest.hidden = this.#atEnd;
    const words = this.#unseen ? `${this.#unseen} new message${this.#unseen === 1 ? "" : "s"}` : "Newest";
    /** @type {HTMLElement} */ (this.#newest.querySelector("span")).textContent = words;
  }
}

/** @param {number} time */
function dayOf(time) {
  const today = new Date();
  const date = new Date(time);
  if (date.toDateString() === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  return date.toDateString() === today.toDateString() ? "Yesterday" : calendar.format(date);
}
