/** The threads that one follows, with what is unread in each. @module */

import { button, element } from "../page.js";
import { plainly } from "./format.js";
import { avatar, nothing } from "./parts.js";
import { nameOf, readMessage, roomOf, some } from "./words.js";

/** @typedef {import("./memberships.js").ThreadRow} ThreadRow */

const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export class ThreadsPanel {
  #page;
  #ways;
  #list = element("ol", "found");
  #note = element("p", "hint");
  /** What is answered in each, by channel. @type {Map<string, any>} */
  #roots = new Map();

  /**
   * @param {import("./chat.js").Page} page @param {import("./panel.js").Panel} panel
   * @param {{rows: () => ThreadRow[], open: (row: ThreadRow) => void, onclose: () => void}} ways
   */
  constructor(page, panel, ways) {
    this.#page = page;
    this.#ways = ways;
    this.#note.setAttribute("role", "status");
    panel.open("threads", "Threads", [this.#note, this.#list], ways.onclose);
    this.draw();
  }

  /** One of them has become another. */
  draw() {
    const rows = this.#ways.rows();
    const unread = rows.filter((row) => row.unread).length;
    this.#note.textContent = rows.length ? (unread ? `${some(unread, "thread")} with new replies.` : "All is read.") : "";
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.thread;
    const none = nothing("reply", "No threads yet", "You follow what you reply to, what is replied to you, and where you are called.");
    this.#list.replaceChildren(...(rows.length ? rows.map((row) => this.#row(row)) : [element("li", "", none)]));
    if (focused) /** @type {any} */ (this.#list.querySelector(`[data-thread="${CSS.escape(focused)}"]`))?.focus();
    for (const row of rows) if (!this.#roots.has(row.channel)) void this.#ask(row);
  }

  /** What the thread is about. @param {ThreadRow} row */
  async #ask({ channel, parent, of }) {
    this.#roots.set(channel, null);
    try {
      const path = `/v1/channels/${encodeURIComponent(parent)}/messages/${of}`;
      this.#roots.set(channel, readMessage(await this.#page.get(path), () => false));
      this.draw();
    } catch {
      // gone, or the server is away: the row says in which room it is
    }
  }

  /** @param {ThreadRow} row */
  #row(row) {
    const { channel, parent, unread, mentions, time } = row;
    const root = this.#roots.get(channel);
    const name = nameOf(roomOf(parent), this.#page.me);
    const meta = element("small", "", time ? `${name} · ${when.format(time)}` : name);
    const words = element("span", "words", root ? plainly(root.text).slice(0, 200) : "…");
    const body = element("span", "who", element("b", "", root?.name ?? name), meta, words);
    const way = button("", avatar(root?.name ?? name), body);
    if (unread) way.append(element("span", mentions ? "badge mentioned" : "badge", String(unread), element("span", "hidden-label", " unread")));
    way.dataset.thread = channel;
    way.addEventListener("click", () => this.#ways.open(row));
    return element("li", "", way);
  }
}
