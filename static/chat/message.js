/**
 * One message, as a row of the conversation: what it says, what has become of it, and what one may do with it. It knows
 * no server.
 *
 * @module
 */

import { button, element } from "../page.js";
import { formatted } from "./format.js";
import { avatar, icon, sure } from "./parts.js";
import { some } from "./words.js";

/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./outgoing.js").Outgoing} Outgoing */
/**
 * What may be done with a message, and how. Each is there where it is allowed.
 *
 * @typedef {object} Deeds
 * @property {(text: string) => void} [edit]
 * @property {() => void} [erase]
 * @property {(kind: string, on: boolean) => void} [react]
 * @property {() => void} [reply]
 * @property {() => void} [unread]
 * @property {() => void} [pin]
 * @property {() => void} [link]
 */
/**
 * `author`: somebody wants to know who has written it; `blocks`: nothing of this user is to be seen; `newReplies`: so
 * many in its thread have not been read.
 *
 * @typedef {{again: (key: string) => void, discard: (key: string) => void, deeds: (message: Message) => Deeds,
 *   pick: (button: HTMLElement, chosen: (kind: string) => void) => void, me: string | null,
 *   author: (button: HTMLElement, user: string) => void, blocks: (user: string) => boolean,
 *   newReplies: (message: Message) => number}} Actions
 */

/** Milliseconds until it is said that a message is still on its way. */
const LATE = 700;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export class Rows {
  #actions;
  /** What stands there when a field is left. @type {WeakMap<Element, Element>} */
  #words = new WeakMap();

  /** @param {Actions} actions */
  constructor(actions) {
    this.#actions = actions;
  }

  /** @param {Partial<Message> & {name: string, text: string, time: number, mine: boolean}} message */
  message(message) {
    const { name, time, mine, raw, edited, erased, pinned } = message;
    const when = element("time", "", clock.format(time));
    when.dateTime = new Date(time).toISOString();
    when.title = full.format(time);
    const meta = element("p", "meta", this.#author(message), when);
    if (edited && !erased) meta.append(element("small", "", "edited"));
    if (pinned && !erased) meta.append(element("small", "", icon("pin"), "pinned"));
    const body = element("div", "body", meta, this.#said(message));
    const states = { mine, pinned: pinned && !erased };
    const row = element("li", "message", avatar(name), body);
    for (const [state, on] of Object.entries(states)) row.classList.toggle(state, Boolean(on));
    row.tabIndex = -1;
    if (message.offset === undefined || raw) return row;
    const one = /** @type {Message} */ (message);
    if (!erased) body.append(...this.#chips(one));
    if (message.mentions?.some((user) => user === "*" || user === this.#actions.me) && !mine) row.classList.add("mentioned");
    body.append(...this.#replies(one));
    return row;
  }

  /** Who has written it: for the mouse a way to what one can do about that. By the keyboard it is among the members.
   *
   * @param {Partial<Message> & {name: string}} message */
  #author({ name, user, mine }) {
    const author = element("b", "", name);
    author.dir = "auto";
    if (!user || mine || user === this.#actions.me || this.#actions.me === null) return author;
    const way = button("author", author);
    way.tabIndex = -1;
    way.addEventListener("click", () => this.#actions.author(way, user));
    return way;
  }

  /** @param {Partial<Message> & {text: string, time: number}} message */
  #said(message) {
    const { text, raw, erased, writing, user } = message;
    const words = element("div", "text");
    words.dir = "auto";
    words.classList.toggle("raw", raw ?? false);
    words.classList.toggle("writing", writing ?? false);
    const say = () => words.replaceChildren(...(raw ? [text] : formatted(text, message.mentions)));
    if (erased) {
      words.classList.add("erased");
      words.textContent = "This message was erased";
    } else if (user && this.#actions.blocks(user)) {
      const show = button("", "Show it");
      show.addEventListener("click", () => {
        words.classList.remove("erased");
        say();
      });
      words.classList.add("erased");
      words.replaceChildren("From somebody you have blocked. ", show);
    } else say();
    return words;
  }

  /** What may be done with it, in a bar: made when somebody comes near, since most rows are never touched.
   *
   * @param {Message} message @param {HTMLElement} row */
  tools(message, row) {
    if (message.erased || message.raw || row.querySelector(".tools")) return;
    const deeds = this.#actions.deeds(message);
    const bar = element("div", "tools");
    bar.setAttribute("role", "group");
    bar.ariaLabel = "What to do with it";
    /** @param {import("./parts.js").Icon} kind @param {string} label @param {(button: HTMLButtonElement) => void} act */
    const add = (kind, label, act) => {
      const tool = button("", icon(kind));
      tool.ariaLabel = tool.title = label;
      tool.addEventListener("click", () => act(tool));
      bar.append(tool);
    };
    const { react, reply, edit, erase, pin, unread, link } = deeds;
    if (react) add("react", "React", (tool) => this.#actions.pick(tool, (kind) => react(kind, true)));
    if (reply) add("reply", "Reply", reply);
    if (edit) add("edit", "Edit", () => this.edit(message, row));
    if (pin) add("pin", message.pinned ? "Unpin" : "Pin", pin);
    if (unread) add("unread", "Mark as unread", unread);
    if (link) add("link", "Copy its link", link);
    if (erase) add("erase", "Erase", (tool) => sure(tool, erase));
    if (bar.childElementCount) row.querySelector(".body")?.append(bar);
  }

  /** Its words become a field. @param {Message} message @param {HTMLElement} row */
  edit(message, row) {
    const { edit } = this.#actions.deeds(message);
    const words = row.querySelector(".text");
    if (!edit || !words || row.querySelector(".editing")) return;
    const field = element("textarea", "editing");
    field.value = message.text;
    field.rows = Math.min(8, message.text.split("\n").length);
    field.ariaLabel = "Edit the message";
    field.title = "Enter saves, Escape cancels";
    field.addEventListener("keydown", (event) => {
      event.stopPropagation(); // arrows are the field's
      if (event.isComposing || (event.key !== "Escape" && (event.key !== "Enter" || event.shiftKey))) return;
      event.preventDefault();
      const text = field.value.trim();
      const row = /** @type {HTMLElement | null} */ (field.closest(".message"));
      field.replaceWith(/** @type {Element} */ (this.#words.get(field)));
      row?.focus();
      if (event.key === "Enter" && text && text !== message.text) edit(text);
    });
    this.#words.set(field, words);
    words.replaceWith(field);
    field.focus();
  }

  /** In the place of a row that says what it was before: who writes in it or has the focus there goes on.
   *
   * @param {HTMLElement} old @param {HTMLElement} row @param {Message} message */
  replace(old, row, message) {
    const active = /** @type {HTMLElement | null} */ (old.contains(document.activeElement) ? document.activeElement : null);
    const field = old.querySelector(".editing");
    const words = row.querySelector(".text");
    if (field && words && !message.erased) {
      this.#words.set(field, words);
      words.replaceWith(field);
    }
    if (old.querySelector(".tools")) this.tools(message, row);
    old.replaceWith(row);
    if (!active) return;
    const same = active.ariaLabel ? [...row.querySelectorAll("button")].find((one) => one.title === active.title) : null;
    const heir = active === field ? field : active.matches(".chip") ? row.querySelector(`.chip[data-kind="${CSS.escape(active.dataset.kind ?? "")}"]`) : same;
    /** @type {HTMLElement} */ (heir ?? row).focus({ preventScroll: true });
  }

  /** @param {Message} message */
  #chips(message) {
    if (!message.reactions?.length) return [];
    const { react } = this.#actions.deeds(message);
    const chips = message.reactions.map(({ k, n, u, mine }) => {
      const who = mine ? ["you", ...u.filter((user) => user !== this.#actions.me)] : u;
      const others = n > who.length ? ` and ${n - who.length} more` : "";
      const chip = button("chip", element("span", "", k), ` ${n}`);
      chip.dataset.kind = k;
      chip.title = `${who.join(", ")}${others}`;
      chip.ariaLabel = `${k}, ${n}: ${chip.title}`;
      chip.setAttribute("aria-pressed", String(mine));
      chip.disabled = !react;
      chip.addEventListener("click", () => react?.(k, !mine));
      return chip;
    });
    if (react) {
      const more = button("chip add", icon("react"));
      more.ariaLabel = more.title = "Add a reaction";
      more.addEventListener("click", () => this.#actions.pick(more, (kind) => react(kind, true)));
      chips.push(more);
    }
    return [element("div", "chips", ...chips)];
  }

  /** @param {Message} message */
  #replies(message) {
    const { replies, thread } = message;
    if (!thread && !replies?.count) return [];
    const { reply } = this.#actions.deeds(message);
    if (thread && reply) {
      const link = button("replies", "From a thread");
      link.addEventListener("click", reply);
      return [link];
    }
    if (!replies?.count) return [];
    const faces = replies.users.slice(0, 4).map((user) => avatar(user, "small"));
    const way = button("replies", ...faces, some(replies.count, "reply", "replies"));
    const fresh = this.#actions.newReplies(message);
    if (fresh) way.append(element("span", "badge", `${fresh} new`));
    way.disabled = !reply;
    way.addEventListener("click", () => reply?.());
    return [way];
  }

  /** @param {Outgoing} message */
  outgoing(message) {
    const row = this.message(message);
    row.classList.add("pending");
    setTimeout(() => row.classList.add("late"), LATE); // most are confirmed before one could read the note
    const notes = { waiting: "Waiting to be sent", sent: "Stored", failed: `Not sent: ${message.error}` };
    const note = element("p", "note", notes[message.state]);
    if (message.state === "failed") {
      row.classList.add("failed");
      const again = button("", "Try again");
      again.addEventListener("click", () => this.#actions.again(message.key));
      const discard = button("", "Discard");
      discard.addEventListener("click", () => this.#actions.discard(message.key));
      note.append(again, discard);
    }
    row.querySelector(".body")?.append(note);
    return row;
  }
}
