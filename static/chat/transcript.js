/**
 * The conversation as it is seen: rows, what groups them, and the scroll position. It knows no server.
 *
 * @module
 */

import { element } from "../page.js";

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
 */

/** @typedef {{line: string, kind: "gap" | "away"}} Line  a remark between messages */
/** @typedef {Message | Line} Entry */

/**
 * @typedef {object} Draft  an own message on its way
 * @property {string} key
 * @property {string} name
 * @property {string} text
 * @property {number} time
 * @property {true} mine
 * @property {"waiting" | "sent" | "failed"} state
 * @property {number} [offset]  once it is stored
 * @property {string} [error]
 */

/** Messages this near to each other, of one author, form a group. */
const GROUP = 5 * 60_000;
/** More rows are taken off at the top, while nobody reads there; scrolling up brings them back from the server. */
const MOST_ROWS = 400;
/** Milliseconds until it is said that a message is still on its way. */
const LATE = 700;
/** Pixels from the end that still count as being there. */
const NEAR = 60;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** The colour class of a name. @param {string} name */
export function hue(name) {
  let hash = 0x811c9dc5; // FNV-1a: short names that differ in one letter come apart
  for (let index = 0; index < name.length; index++) hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193);
  return `hue-${(hash >>> 16) % 8}`;
}

/** @param {string} name */
export function initial(name) {
  return ([...name][0] ?? "?").toUpperCase();
}

export class Transcript {
  #scroller;
  #rows;
  #outbox;
  #edge;
  #newest;
  /** @type {WeakMap<Element, Entry | Draft>} */
  #entries = new WeakMap();
  /** @type {Map<string, HTMLElement>} drafts by key */
  #drafts = new Map();
  #atEnd = true;
  #top = 0;
  #unseen = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #quiet;

  /** Rows were taken off at the top: called with the first message left. @type {(first: Message) => void} */
  onTrim = () => {};

  /**
   * @param {Record<"scroller" | "log" | "outbox" | "edge" | "newest", HTMLElement>} parts
   * @param {{older: () => void, again: (key: string) => void, discard: (key: string) => void,
   *   mayChange: (message: Message) => boolean, edit: (message: Message, text: string) => void,
   *   erase: (message: Message) => void}} actions
   */
  constructor({ scroller, log, outbox, edge, newest }, actions) {
    this.#scroller = scroller;
    this.#rows = /** @type {HTMLElement} */ (log.querySelector("ol"));
    this.#outbox = outbox;
    this.#edge = edge;
    this.#newest = newest;
    this.log = log;
    this.actions = actions;
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

  /** @param {Entry[]} entries @param {Draft[]} drafts */
  show(entries, drafts) {
    this.#quietly(() => {
      this.#rows.replaceChildren();
      this.#outbox.replaceChildren();
      this.#drafts.clear();
      this.#rows.append(...entries.map((entry) => this.#row(entry)));
      for (const row of this.#rows.querySelectorAll(".message")) this.#arrange(row);
      for (const draft of drafts) this.draft(draft);
    });
    this.toEnd();
  }

  /** One more at the end; of many at once none is read out. @param {Entry} entry @param {boolean} [many] */
  append(entry, many = false) {
    if (many) this.#quietly(() => this.#append(entry));
    else this.#append(entry);
  }

  /** @param {Entry} entry */
  #append(entry) {
    const row = this.#row(entry);
    this.#rows.append(row);
    if (!("line" in entry)) {
      this.#arrange(row);
      if (this.#drafts.has(entry.key)) this.#dropDraft(entry.key);
      else if (!this.#atEnd && !entry.mine) this.#count(1);
    }
    const first = this.#outbox.firstElementChild;
    if (first) this.#arrange(first);
    if (this.#atEnd) this.#trim();
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
    const old = [...this.#rows.children].find((row) => /** @type {any} */ (this.#entries.get(row))?.offset === entry.offset);
    if (!old) return;
    this.#quietly(() => {
      const row = this.#row(entry);
      old.replaceWith(row);
      this.#arrange(row);
      const next = row.nextElementSibling;
      if (next?.matches(".message")) this.#arrange(next);
    });
  }

  /** Show an own message on its way, or what has become of it. @param {Draft} draft */
  draft(draft) {
    const row = this.#draftRow(draft);
    const old = this.#drafts.get(draft.key);
    if (old) old.replaceWith(row);
    else this.#outbox.append(row);
    this.#drafts.set(draft.key, row);
    this.#arrange(row);
  }

  /** @param {string} key */
  #dropDraft(key) {
    const row = this.#drafts.get(key);
    this.#drafts.delete(key);
    const after = row?.nextElementSibling;
    row?.remove();
    if (after) this.#arrange(after);
  }

  /** Take a draft away. @param {string} key */
  discard(key) {
    this.#dropDraft(key);
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
    const row = "line" in entry ? element("li", `line ${entry.kind}`, entry.line) : this.#message(entry);
    this.#entries.set(row, entry);
    return row;
  }

  /** Two buttons, for whose message it is. @param {Message} message @param {HTMLElement} row */
  #tools(message, row) {
    const edit = element("button", "", "Edit");
    edit.addEventListener("click", () => this.#edit(message, row));
    const erase = element("button", "", "Erase");
    erase.addEventListener("click", () => this.actions.erase(message));
    return element("p", "tools", edit, erase);
  }

  /** Its words become a field. @param {Message} message @param {HTMLElement} row */
  #edit(message, row) {
    const field = element("textarea", "editing");
    field.value = message.text;
    field.ariaLabel = "Edit the message";
    const words = /** @type {HTMLElement} */ (row.querySelector(".text"));
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Escape" && (event.key !== "Enter" || event.shiftKey))) return;
      event.preventDefault();
      const text = field.value.trim();
      field.replaceWith(words);
      if (event.key === "Enter" && text && text !== message.text) this.actions.edit(message, text);
    });
    words.replaceWith(field);
    field.focus();
  }

  /** @param {Partial<Message> & {name: string, text: string, time: number, mine: boolean}} message */
  #message(message) {
    const { name, text, time, mine, raw, edited, erased } = message;
    const avatar = element("span", `avatar ${hue(name)}`, initial(name));
    avatar.ariaHidden = "true";
    const when = element("time", "", clock.format(time));
    when.dateTime = new Date(time).toISOString();
    when.title = full.format(time);
    const author = element("b", "", name);
    author.dir = "auto";
    if (edited && !erased) when.textContent += " · edited";
    const words = erased
      ? element("p", "text erased", "This message was erased")
      : element("p", raw ? "text raw" : "text", ...linked(text));
    words.dir = "auto";
    words.title = full.format(time);
    const body = element("div", "body", element("p", "meta", author, when), words);
    const row = element("li", `message${mine ? " mine" : ""}`, avatar, body);
    if (!erased && !raw && message.offset !== undefined) {
      const one = /** @type {Message} */ (message);
      if (this.actions.mayChange(one)) body.append(this.#tools(one, row));
    }
    return row;
  }

  /** @param {Draft} draft */
  #draftRow(draft) {
    const row = this.#message(draft);
    this.#entries.set(row, draft);
    row.classList.add("pending");
    setTimeout(() => row.classList.add("late"), LATE); // most are confirmed before one could read the note
    const notes = { waiting: "Waiting to be sent", sent: "Stored", failed: `Not sent: ${draft.error}` };
    const note = element("p", "note", notes[draft.state]);
    if (draft.state === "failed") {
      row.classList.add("failed");
      const again = element("button", "", "Try again");
      again.addEventListener("click", () => this.actions.again(draft.key));
      const discard = element("button", "", "Discard");
      discard.addEventListener("click", () => this.actions.discard(draft.key));
      note.append(again, discard);
    }
    row.querySelector(".body")?.append(note);
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
    if (inLog && !sameDay) row.before(element("li", "line day", dayOf(entry.time)));
    const quiet =
      sameDay &&
      last === before &&
      previous.name === entry.name &&
      previous.mine === entry.mine &&
      Math.abs(entry.time - previous.time) < GROUP;
    row.classList.toggle("quiet", quiet);
    if (last === before) last?.classList.toggle("followed", quiet);
  }

  #arrangeLast() {
    this.#rows.lastElementChild?.classList.remove("followed");
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
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR || (this.#atEnd && scrollTop >= this.#top);
    this.#top = scrollTop;
    if (atEnd !== this.#atEnd) {
      this.#atEnd = atEnd;
      if (atEnd) this.#count(-this.#unseen);
      else this.#count(0);
    }
    if (this.#nearTop) this.actions.older();
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

/** Text with its web addresses as links. Only http and https: an address is somebody else's data.
 *
 * @param {string} text @returns {(Node | string)[]} */
function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+[^\s<>".,;:!?')\]])/).map((part, index) => {
    if (index % 2 === 0) return part;
    const link = element("a", "", part);
    link.href = part;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    return link;
  });
}
