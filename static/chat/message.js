/**
 * One message, as a row of the conversation: what it says, what has become of it, and what one may do with it. It knows
 * no server.
 *
 * @module
 */

import { element, svg } from "../page.js";
import { some } from "./words.js";

/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./transcript.js").Draft} Draft */
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
 */
/** @typedef {{again: (key: string) => void, discard: (key: string) => void, deeds: (message: Message) => Deeds,
 *   pick: (button: HTMLElement, chosen: (kind: string) => void) => void, me: string | null}} Actions */

/** Milliseconds until it is said that a message is still on its way. */
const LATE = 700;
const ICONS = {
  react: "M10 17.5a7.5 7.5 0 1 0 0-15 7.5 7.5 0 0 0 0 15ZM7.3 8h.01M12.7 8h.01M6.8 11.7c.8 1.4 1.9 2.1 3.2 2.1s2.4-.7 3.2-2.1",
  reply: "M17 10.2c0 3.4-3.1 6-7 6-1 0-2-.2-2.9-.5L3.5 17l1-3.2C3.6 12.8 3 11.6 3 10.2c0-3.4 3.1-6 7-6s7 2.6 7 6Z",
  edit: "m4 16 .8-3.3 8.4-8.4a1.8 1.8 0 0 1 2.5 2.5l-8.4 8.4L4 16Zm7.8-10.3 2.5 2.5",
  erase: "M4.5 6h11M8 6V4.5h4V6m-6 0 .6 10h6.8L14 6m-5.3 3v4m2.6-4v4",
  unread: "M10 5.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9Zm6.5-2.5v4m-2-2h4",
  pin: "m12 3 5 5-3 1-3.5 3.5.5 3-1.5 1.5L4.5 12 6 10.5l3 .5L12.5 7.5 12 3ZM7 14l-3.5 3.5",
};

export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
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

/** @param {string} name @param {string} [more] classes */
export function avatar(name, more = "") {
  const made = element("span", `avatar ${hue(name)} ${more}`, initial(name));
  made.ariaHidden = "true";
  return made;
}

/** @param {keyof typeof ICONS} name */
function icon(name) {
  const drawn = svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" });
  drawn.append(svg("path", { d: ICONS[name] }));
  return drawn;
}

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
    const { name, text, time, mine, raw, edited, erased, pinned } = message;
    const when = element("time", "", clock.format(time));
    when.dateTime = new Date(time).toISOString();
    when.title = full.format(time);
    const author = element("b", "", name);
    author.dir = "auto";
    const meta = element("p", "meta", author, when);
    if (edited && !erased) meta.append(element("small", "", "edited"));
    if (pinned && !erased) meta.append(element("small", "", "pinned"));
    const words = erased
      ? element("p", "text erased", "This message was erased")
      : element("p", `text${raw ? " raw" : ""}${message.writing ? " writing" : ""}`, ...this.#called(text, message.mentions));
    words.dir = "auto";
    words.title = full.format(time);
    const body = element("div", "body", meta, words);
    const row = element("li", `message${mine ? " mine" : ""}${edited || pinned ? " marked" : ""}`, avatar(name), body);
    row.tabIndex = -1;
    if (message.offset === undefined || raw) return row;
    const one = /** @type {Message} */ (message);
    if (!erased) body.append(...this.#chips(one));
    if (message.mentions?.some((user) => user === "*" || user === this.#actions.me) && !mine) row.classList.add("mentioned");
    body.append(...this.#replies(one));
    return row;
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
    /** @param {keyof typeof ICONS} kind @param {string} label @param {(button: HTMLButtonElement) => void} act */
    const add = (kind, label, act) => {
      const button = element("button", "", /** @type {any} */ (icon(kind)));
      button.type = "button";
      button.ariaLabel = button.title = label;
      button.addEventListener("click", () => act(button));
      bar.append(button);
    };
    const { react, reply, edit, erase, pin, unread } = deeds;
    if (react) add("react", "React", (button) => this.#actions.pick(button, (kind) => react(kind, true)));
    if (reply) add("reply", "Reply", reply);
    if (edit) add("edit", "Edit", () => this.edit(message, row));
    if (pin) add("pin", message.pinned ? "Unpin" : "Pin", pin);
    if (unread) add("unread", "Mark as unread", unread);
    if (erase) add("erase", "Erase", (button) => sure(button, erase));
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

  /** A text with its links, and with whom it calls. @param {string} text @param {string[]} [mentions] */
  #called(text, mentions = []) {
    const names = mentions.map((user) => (user === "*" ? "all" : user).toLowerCase());
    return linked(text).flatMap((part) => {
      if (typeof part !== "string" || !names.length) return [part];
      return part.split(/(?<![^\s(])(@[A-Za-z0-9][A-Za-z0-9._@+-]*)/).map((piece, index) => {
        const name = piece.slice(1).toLowerCase().replace(/[.+-]+$/, "");
        return index % 2 && names.includes(name) ? element("b", "call", piece) : piece;
      });
    });
  }

  /** @param {Message} message */
  #chips(message) {
    if (!message.reactions?.length) return [];
    const { react } = this.#actions.deeds(message);
    const chips = message.reactions.map(({ k, n, u, mine }) => {
      const who = mine ? ["you", ...u.filter((user) => user !== this.#actions.me)] : u;
      const others = n > who.length ? ` and ${n - who.length} more` : "";
      const chip = element("button", "chip", element("span", "", k), ` ${n}`);
      chip.type = "button";
      chip.dataset.kind = k;
      chip.title = `${who.join(", ")}${others}`;
      chip.ariaLabel = `${k}, ${n}: ${chip.title}`;
      chip.setAttribute("aria-pressed", String(mine));
      chip.disabled = !react;
      chip.addEventListener("click", () => react?.(k, !mine));
      return chip;
    });
    if (react) {
      const more = element("button", "chip add", /** @type {any} */ (icon("react")));
      more.type = "button";
      more.ariaLabel = more.title = "Add a reaction";
      more.addEventListener("click", () => this.#actions.pick(more, (kind) => react(kind, true)));
      chips.push(more);
    }
    return [element("div", "chips", ...chips)];
  }

  /** @param {Message} message */
  #replies(message) {
    const { replies, thread } = message;
    const { reply } = this.#actions.deeds(message);
    if (thread && reply) {
      const link = element("button", "replies", "From a thread");
      link.type = "button";
      link.addEventListener("click", reply);
      return [link];
    }
    if (!replies?.count) return [];
    const faces = replies.users.slice(0, 4).map((user) => avatar(user, "small"));
    const button = element("button", "replies", ...faces, some(replies.count, "reply", "replies"));
    button.type = "button";
    button.disabled = !reply;
    button.addEventListener("click", () => reply?.());
    return [button];
  }

  /** @param {Draft} draft */
  draft(draft) {
    const row = this.message(draft);
    row.classList.add("pending");
    setTimeout(() => row.classList.add("late"), LATE); // most are confirmed before one could read the note
    const notes = { waiting: "Waiting to be sent", sent: "Stored", failed: `Not sent: ${draft.error}` };
    const note = element("p", "note", notes[draft.state]);
    if (draft.state === "failed") {
      row.classList.add("failed");
      const again = element("button", "", "Try again");
      again.addEventListener("click", () => this.#actions.again(draft.key));
      const discard = element("button", "", "Discard");
      discard.addEventListener("click", () => this.#actions.discard(draft.key));
      note.append(again, discard);
    }
    row.querySelector(".body")?.append(note);
    return row;
  }
}

/** What cannot be taken back is asked about once: the button says so, and means it when it is pressed again.
 *
 * @param {HTMLButtonElement} button @param {() => void} act */
export function sure(button, act) {
  if (button.dataset.sure) return act();
  const before = [...button.childNodes];
  const label = button.ariaLabel ?? button.textContent ?? "";
  button.dataset.sure = "asked";
  button.ariaLabel = null;
  button.textContent = `${label}?`;
  const calm = () => {
    delete button.dataset.sure;
    button.ariaLabel = label;
    button.replaceChildren(...before);
  };
  button.addEventListener("blur", calm, { once: true });
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
