/** What is pinned in a room: read back from its end, and kept while one looks. @module */

import { button, element } from "../page.js";
import { formatted } from "./format.js";
import { avatar, nothing } from "./parts.js";
import { nameOf, offsetOf, readMessage } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./transcript.js").Message} Message */

/** Messages that are looked through at once. */
const PAGE = 1000;
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const number = new Intl.NumberFormat();

export class PinsPanel {
  #room;
  #ways;
  #list = element("ol", "found");
  #note = element("p", "hint");
  #more = button("quiet-button", "Look further back");
  /** By offset. @type {Map<number, Message>} */
  #pinned = new Map();
  /** From here on it is looked through. @type {string | null} */
  #cursor = null;
  #looked = 0;

  /**
   * @param {import("./panel.js").Panel} panel @param {Room} room @param {string | null} me
   * @param {{show: (offset: number) => void, change: (change: Promise<any>) => void}} ways  `change`: one that may be refused
   */
  constructor(panel, room, me, ways) {
    this.#room = room;
    this.#ways = ways;
    this.#note.setAttribute("role", "status");
    this.#more.hidden = true;
    this.#more.addEventListener("click", () => void this.#look());
    const off = room.channel.on("amend", (push) => this.#amend(push));
    panel.open("pins", `Pinned in ${nameOf(room.name, me)}`, [this.#list, this.#note, this.#more], off);
    void this.#look();
  }

  async #look() {
    this.#note.textContent = "Looking…";
    try {
      const before = this.#cursor === null ? {} : { before: this.#cursor };
      const { messages, more } = await this.#room.channel.history({ limit: PAGE, ...before });
      for (const push of messages) this.#put(push);
      this.#cursor = messages[0]?.cursor ?? this.#cursor;
      this.#looked += messages.length;
      this.#more.hidden = !more;
      this.#note.textContent = more ? `Of the newest ${number.format(this.#looked)} messages.` : "";
      this.#draw();
    } catch (/** @type {any} */ error) {
      this.#note.textContent = error.reason ?? String(error);
    }
  }

  /** @param {any} push */
  #put(push) {
    if (push.pinned && !push.deleted) this.#pinned.set(push.offset, readMessage(push, () => false));
    else this.#pinned.delete(push.offset);
  }

  /** What becomes of a message: of one that was not looked at it is asked what it says. @param {any} push */
  async #amend({ op, of, data }) {
    const held = this.#pinned.has(of);
    if (op === "delete" || (op === "pin" && data === false)) this.#pinned.delete(of);
    else if (op === "pin" || (held && op === "edit")) {
      const { messages } = await this.#room.channel.history({ after: `${before(this.#room.cursor, of)}`, limit: 1 });
      for (const message of messages) if (message.offset === of) this.#put(message);
    } else return;
    this.#draw();
  }

  #draw() {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.closest("#panel li");
    const place = focused ? [...this.#list.children].indexOf(focused) : -1;
    const rows = [...this.#pinned.values()].sort((one, other) => other.offset - one.offset).map((message) => this.#row(message));
    const none = nothing("pin", "Nothing is pinned yet", "Pin what everybody is to find again: the pin is in the bar above a message.");
    this.#list.replaceChildren(...(rows.length || !this.#more.hidden ? rows : [element("li", "", none)]));
    if (place >= 0) (this.#list.children[Math.min(place, rows.length - 1)]?.querySelector("button") ?? document.getElementById("panel-title"))?.focus();
  }

  /** @param {Message} message */
  #row({ name, text, time, offset, raw, mentions }) {
    const words = element("div", "text words", ...(raw ? [text] : formatted(text, mentions)));
    words.dir = "auto";
    const meta = element("p", "meta", element("b", "", name), element("time", "", when.format(time)));
    const show = button("quiet-button", "Show");
    show.ariaLabel = `Show the message of ${name}`;
    show.addEventListener("click", () => this.#ways.show(offset));
    const row = element("li", "card", avatar(name), element("div", "body", meta, words, element("p", "ways", show)));
    if (this.#room.may.has("amend")) {
      const unpin = button("quiet-button", "Unpin");
      unpin.ariaLabel = `Unpin the message of ${name}`;
      unpin.addEventListener("click", () => this.#ways.change(this.#room.channel.pin(offset, false)));
      show.after(unpin);
    }
    return row;
  }
}

/** The cursor in front of an offset. @param {string | null} cursor @param {number} offset */
function before(cursor, offset) {
  const place = cursor ?? "";
  return `${place.slice(0, place.length - String(offsetOf(place)).length)}${offset - 1}`;
}
