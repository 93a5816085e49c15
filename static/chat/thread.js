/** The answers to one message, beside the conversation: a channel of its own, with the rights of the room. @module */

import { button, element } from "../page.js";
import { formatByKeys } from "./formatting.js";
import { Rows } from "./message.js";
import { noteReadThread } from "./reading.js";
import { Room } from "./room.js";
import { Transcript } from "./transcript.js";
import { nameOf, roomOf } from "./words.js";

/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./message.js").Actions} Actions */

export class ThreadPanel {
  /** @type {Room} */
  room;
  /** @type {Transcript} */
  transcript;
  #root = element("ol", "root");
  /** Its replies are counted for one among one's threads, or not. */
  #follow = button("quiet-button");
  #actions;

  /**
   * @param {import("./chat.js").Page} page @param {import("./panel.js").Panel} panel
   * @param {Room} parent @param {Message} message  the one that is answered
   * @param {{actionsOf: (room: Room) => Actions, author: () => string, onclose: () => void}} ways  `author`: by what name
   *   one writes
   */
  constructor(page, panel, parent, message, { actionsOf, author, onclose }) {
    this.parent = parent;
    this.offset = message.offset;
    const channel = page.client.channel(`$thread:${message.offset}:${parent.channel.name}`);
    this.room = new Room(roomOf(channel.name), channel, page);
    this.room.inherit(parent);
    this.#actions = actionsOf(this.room);
    const log = element("div", "", element("ol"));
    log.setAttribute("role", "log");
    log.ariaLabel = "Replies";
    const edge = element("p", "edge");
    const outbox = element("ol");
    const newest = button("newest", element("span"));
    newest.hidden = true;
    this.#follow.hidden = true;
    this.#follow.addEventListener("click", () => void this.#toggle());
    const scroller = element("div", "scroller", element("div", "column", this.#root, element("p", "following", this.#follow), edge, log, outbox));
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "region");
    scroller.ariaLabel = "Thread";
    const foot = element("div", "foot", newest, this.#composer(author));
    panel.open("thread", `Thread in ${nameOf(parent.name, page.me)}`, [scroller, foot], () => {
      this.room.leave(); // what is still to be sent the client sends all the same
      onclose();
    });
    this.transcript = new Transcript({ scroller, log, outbox, edge, newest }, { ...this.#actions, older: () => void this.room.older(), read: () => noteReadThread(page) });
    this.transcript.onTrim = (first) => this.room.trimmed(first);
    this.changed(message);
    this.transcript.show(this.room.entries, [...this.room.sender.messages.values()]);
    this.room.enter();
    if (parent.may.has("publish")) /** @type {HTMLElement} */ (foot.querySelector("textarea")).focus();
  }

  /** The message that is answered has become another. @param {Message} message */
  changed(message) {
    const none = { ...this.#actions, deeds: () => ({}) };
    const row = new Rows(none).message({ ...message, replies: undefined, mine: false });
    row.removeAttribute("tabindex");
    this.#root.replaceChildren(row);
  }

  /** One follows it, or not. @param {boolean} on */
  follows(on) {
    this.#follow.hidden = this.parent.role === null; // for members of the room
    this.#follow.setAttribute("aria-pressed", String(on));
    this.#follow.textContent = on ? "Following" : "Follow this thread";
  }

  async #toggle() {
    const { channel, page } = this.room;
    const on = this.#follow.getAttribute("aria-pressed") === "true";
    await page.change(on ? channel.leave() : channel.join());
  }

  /** @param {() => string} author */
  #composer(author) {
    const text = element("textarea");
    text.id = "thread-text";
    text.rows = 1;
    text.dir = "auto";
    text.placeholder = "Reply";
    text.maxLength = 4000;
    const label = element("label", "hidden-label", "Reply");
    label.htmlFor = text.id;
    const both = element("input");
    both.type = "checkbox";
    both.id = "thread-both";
    const too = element("label", "too", both, ` Also send to ${nameOf(this.parent.name, this.parent.page.me)}`);
    const send = element("button", "primary", "Reply");
    formatByKeys(text);
    const form = element("form", "composer", label, element("div", "field", text, element("div", "tray", too, send)));
    this.room.page.people.offerIn(text);
    const say = () => {
      const said = text.value.trim();
      if (!said) return;
      this.transcript.toEnd();
      const { people } = this.room.page;
      this.room.sender.say(author(), said, { ...people.called(this.parent, said), ...(both.checked ? { broadcast: true } : {}) });
      text.value = "";
      both.checked = false;
    };
    form.hidden = !this.parent.may.has("publish");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      say();
    });
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      say();
    });
    return form;
  }
}
