/** The side bar: the rooms, and on narrow screens a drawer. @module */

import { $, button, element, recall, remember } from "../page.js";
import { addressOf, DEFAULT_ROOM } from "./address.js";
import { avatar, icon } from "./parts.js";
import { cleanRoom, some } from "./words.js";

/** `draft`: something was begun to be written there.
 *
 * @typedef {{name: string, title: string, unread: number, direct?: boolean, mentions?: number, member?: boolean, mute?: boolean,
 *   draft?: boolean}} Shown */

export class Sidebar {
  #leave;
  /** @type {string[]} */
  visited = [];

  /** @param {(typed: string) => void} enter  the room of this name @param {(room: string) => void} leave */
  constructor(enter, leave) {
    this.#leave = leave;
    const visited = recall("localStorage", "rooms");
    if (Array.isArray(visited))
      this.visited = visited.filter((room) => typeof room === "string" && cleanRoom(room) === room);
    $("go").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const typed = $("go-room").value;
      $("go-room").value = "";
      if (cleanRoom(typed)) enter(typed);
    });
    $("menu").addEventListener("click", () => this.#drawer(true));
    $("scrim").addEventListener("click", () => this.#drawer(false));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && $("side").matches(".shown")) this.#drawer(false);
    });
    $("rooms").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#move(event));
    matchMedia("(min-width: 761px)").addEventListener("change", () => this.close());
  }

  /** @param {string} room */
  visit(room) {
    if (this.visited.includes(room)) return;
    this.visited = [...this.visited, room].slice(-20);
    remember("localStorage", "rooms", this.visited);
  }

  /** @param {string} room */
  forget(room) {
    this.visited = this.visited.filter((one) => one !== room);
    remember("localStorage", "rooms", this.visited);
  }

  /** Parts with a heading each; one that has no rooms is left out.
   *
   * @param {string} current @param {{title: string, rooms: Shown[]}[]} parts */
  show(current, parts) {
    const focused = /** @type {any} */ (document.activeElement)?.closest?.("#rooms")
      ? /** @type {any} */ (document.activeElement).dataset.room
      : null;
    const lists = parts
      .filter(({ rooms }) => rooms.length)
      .map(({ title, rooms }, index) => {
        const heading = element("h2", "", title);
        heading.id = `rooms-${index}`;
        const list = element("ul", "", ...rooms.map((room) => this.#row(room, room.name === current)));
        list.setAttribute("aria-labelledby", heading.id);
        return [heading, list];
      });
    $("rooms").replaceChildren(...lists.flat());
    if (focused) $("rooms").querySelector(`[data-room="${CSS.escape(focused)}"]`)?.focus();
  }

  /** How many threads have new replies, and whether one is called there. @param {number} unread @param {boolean} mentioned */
  showThreads(unread, mentioned) {
    const badge = $("threads").querySelector(".badge");
    badge.hidden = !unread;
    badge.classList.toggle("mentioned", mentioned);
    badge.replaceChildren(String(unread), element("span", "hidden-label", " with new replies"));
  }

  /** The rooms, as they stand here. @returns {string[]} */
  names() {
    return [...$("rooms").querySelectorAll("a")].map((link) => link.dataset.room);
  }

  /** @param {Shown} room @param {boolean} current */
  #row({ name, title, direct, unread, mentions = 0, member, mute, draft }, current) {
    const link = element("a", mute ? "mute" : "", direct ? avatar(title, "small") : icon("room"), element("span", "name", title));
    link.href = addressOf(name);
    link.dataset.room = name;
    if (draft && !current) {
      const begun = element("span", "draft", icon("edit"), element("span", "hidden-label", " draft"));
      begun.title = "Not sent yet";
      link.append(begun);
    }
    if (current) link.setAttribute("aria-current", "page");
    else if (mute ? mentions : unread) {
      const badge = element("span", mentions ? "badge mentioned" : "badge", unread > 99 ? "99+" : String(unread));
      badge.append(element("span", "hidden-label", mentions ? ` unread, ${some(mentions, "mention")}` : " unread"));
      link.append(badge);
    }
    link.addEventListener("click", () => this.close());
    const row = element("li", "", link);
    if (member || name === DEFAULT_ROOM) return row; // one is left among its members, the other is where one is without any
    const leave = button("leave");
    leave.ariaLabel = `Leave ${title}`;
    leave.title = `Leave #${title}`;
    leave.addEventListener("click", () => this.#leave(name));
    row.append(leave);
    return row;
  }

  /** From room to room by the arrows. @param {KeyboardEvent} event */
  #move(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    const links = [...$("rooms").querySelectorAll("a")];
    const next = links[links.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  /** The drawer, without moving the focus. */
  close() {
    this.#drawer(false, false);
  }

  /** @param {boolean} shown @param {boolean} [refocus] */
  #drawer(shown, refocus = true) {
    $("side").classList.toggle("shown", shown);
    $("scrim").hidden = !shown;
    $("main").inert = shown;
    $("menu").setAttribute("aria-expanded", String(shown));
    if (shown) $("rooms").querySelector("a")?.focus();
    else if (refocus) $("menu").focus();
  }
}
