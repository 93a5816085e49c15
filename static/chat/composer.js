/** Writing: the message field, and the name that stands above it. @module */

import { $, recall, remember } from "../page.js";
import { Drafts } from "./drafts.js";
import { formatByButtons, formatByKeys, insert } from "./formatting.js";
import { hue, initial } from "./parts.js";
import { cleanName } from "./words.js";

/** Characters; what is longer is not cut off, but not sent either. */
const LONGEST = 4000;
const number = new Intl.NumberFormat();

export class Composer {
  #actions;
  #drafts = new Drafts();
  /** Where one writes. */
  #room = "";
  name = cleanName(recall("localStorage", "name"));

  /** @param {{say: (text: string) => void, typing: (done: boolean) => void, rename: () => void, drafted: () => void,
   *   pick: (button: HTMLElement, chosen: (kind: string) => void) => void}} actions
   *   `drafted`: in a room there is something unfinished now, or no longer
   * @param {string | null} user  whose name it is; null: a guest, who chooses one */
  constructor(actions, user) {
    this.#actions = actions;
    if (user !== null) {
      this.name = user;
      $("me").disabled = true;
      $("me").querySelector("small").hidden = true;
    }
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
      this.#fit();
      this.#keep();
      actions.typing(!$("text").value.trim());
    });
    formatByKeys($("text"));
    formatByButtons($("formatting"), $("text"), (button) => actions.pick(button, (kind) => insert($("text"), kind)));
    $("introduce").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#introduce();
    });
    $("name").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && this.name) this.#show(true);
    });
    $("keep-name").addEventListener("click", () => this.#show(true));
    $("me").addEventListener("click", () => {
      actions.rename();
      this.#ask();
    });
    this.#show();
  }

  /** Into the field that is next; on a touch screen that would bring the keyboard up, so to the conversation there. */
  focus() {
    if (matchMedia("(pointer: coarse)").matches) $("scroller").focus({ preventScroll: true });
    else $(this.name ? "text" : "name").focus();
  }

  /** Another room is shown: with what was begun there. @param {string} room @param {string} placeholder */
  enter(room, placeholder) {
    this.#room = room;
    $("text").placeholder = placeholder;
    $("text").value = this.#drafts.of(room);
    this.#fit();
  }

  /** Call somebody by name. @param {string} user */
  call(user) {
    insert($("text"), /(^|\s)$/.test($("text").value) ? `@${user} ` : ` @${user} `);
  }

  /** Whether something was begun in a room. @param {string} room */
  begun(room) {
    return this.#drafts.of(room) !== "";
  }

  #keep() {
    if (this.#drafts.keep(this.#room, $("text").value)) this.#actions.drafted();
  }

  #send() {
    const text = $("text").value.trim();
    if (!text || text.length > LONGEST) return;
    $("text").value = "";
    this.#keep();
    this.#fit();
    this.#actions.say(text);
    $("text").focus();
  }

  #fit() {
    const text = $("text").value;
    const { length } = text.trim();
    $("text").parentElement.dataset.text = text;
    $("composer").classList.toggle("empty", !length || length > LONGEST);
    $("too-long").hidden = length <= LONGEST;
    const words = `${number.format(length)} characters; a message has ${number.format(LONGEST)} at most.`;
    $("too-long").textContent = length > LONGEST ? words : "";
  }

  #introduce() {
    const name = cleanName($("name").value);
    if (!name) return $("name").focus();
    this.name = name;
    remember("localStorage", "name", name);
    this.#show(true);
  }

  #ask() {
    $("name").value = this.name;
    $("introduce").hidden = false;
    $("keep-name").hidden = this.name === "";
    $("composer").hidden = true;
    $("name").select();
    $("name").focus();
  }

  /** @param {boolean} [focus] */
  #show(focus = false) {
    $("introduce").hidden = this.name !== "";
    $("keep-name").hidden = this.name === "";
    $("composer").hidden = this.name === "";
    $("me").hidden = this.name === "";
    const avatar = $("me").querySelector(".avatar");
    avatar.className = `avatar ${hue(this.name)}`;
    avatar.textContent = initial(this.name);
    $("me").querySelector("b").textContent = this.name;
    this.#fit();
    if (focus) $("text").focus();
  }
}
