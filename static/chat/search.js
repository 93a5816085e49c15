/** Finding messages by their words, in this room or in all of one's own. @module */

import { $, button, element } from "../page.js";
import { plainly } from "./format.js";
import { avatar } from "./parts.js";
import { nameOf, readMessage, roomOf } from "./words.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./chat.js").Page} Page */

const PAGE = 20;
/** Milliseconds without a key until it is looked for. */
const PAUSE = 200;
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export class SearchPanel {
  #page;
  #room;
  #show;
  #words = element("input");
  #everywhere = element("input");
  #found = element("ol", "found");
  #note = element("p", "hint");
  #more = button("quiet-button", "Show more");
  /** @type {string | null} */
  #cursor = null;
  #asked = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #pausing;

  /** @param {Page} page @param {import("./panel.js").Panel} panel @param {Room} room @param {(room: string, offset: number) => void} show
   * @param {string} [words]  to begin with */
  constructor(page, panel, room, show, words = "") {
    this.#page = page;
    this.#room = room;
    this.#show = show;
    Object.assign(this.#words, { id: "search-words", type: "search", autocomplete: "off", spellcheck: false });
    Object.assign(this.#everywhere, { id: "search-everywhere", type: "checkbox" });
    const label = element("label", "", "Words");
    label.htmlFor = this.#words.id;
    const everywhere = element("label", "wish", this.#everywhere, " In all my rooms");
    this.#note.setAttribute("role", "status");
    this.#more.hidden = true;
    this.#more.addEventListener("click", () => void this.#ask(true));
    for (const part of [this.#words, this.#everywhere]) part.addEventListener("input", () => this.#soon());
    const form = element("form", "search", label, this.#words, everywhere);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#ask();
    });
    panel.open("search", `Search ${nameOf(room.name, page.me)}`, [form, this.#note, this.#found, this.#more]);
    this.#words.focus();
    this.#words.value = words;
    if (words) void this.#ask();
  }

  #soon() {
    clearTimeout(this.#pausing);
    this.#pausing = setTimeout(() => void this.#ask(), PAUSE);
  }

  /** @param {boolean} [more]  the page that follows */
  async #ask(more = false) {
    const asked = ++this.#asked;
    const words = this.#words.value;
    if (!words.trim()) {
      this.#found.replaceChildren();
      this.#note.textContent = "";
      this.#more.hidden = true;
      return;
    }
    try {
      const where = this.#everywhere.checked ? {} : { channels: [this.#room.channel.name] };
      const after = more && this.#cursor ? { after: this.#cursor } : {};
      const page = await this.#page.client.search(words, { limit: PAGE, ...where, ...after });
      if (asked !== this.#asked) return; // something else was asked for meanwhile
      const rows = page.messages.map((/** @type {any} */ push) => this.#row(push, words));
      if (more) this.#found.append(...rows);
      else this.#found.replaceChildren(...rows);
      this.#cursor = page.cursor;
      this.#more.hidden = !page.more;
      this.#note.textContent = this.#found.children.length ? "" : page.more ? "None so far." : "Nothing is found.";
    } catch (/** @type {any} */ error) {
      if (asked === this.#asked) this.#note.textContent = error.reason ?? String(error);
    }
  }

  /** @param {any} push @param {string} words */
  #row(push, words) {
    const { name, text, time, offset } = readMessage(push, () => false);
    const room = roomOf(push.channel);
    const where = room === this.#room.name ? "" : `${nameOf(room, this.#page.me)} · `;
    const meta = element("small", "", `${where}${when.format(time)}`);
    const body = element("span", "who", element("b", "", name), meta, element("span", "words", ...marked(plainly(text), words)));
    const way = button("", avatar(name), body);
    way.addEventListener("click", () => this.#show(room, offset));
    return element("li", "", way);
  }
}

/** A text with what was looked for. @param {string} text @param {string} words */
function marked(text, words) {
  const wanted = words.trim().split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = text.split(new RegExp(`(?<![\\p{L}\\p{N}])(${wanted.join("|")})`, "giu"));
  return parts.map((part, index) => (index % 2 ? element("mark", "", part) : part));
}
