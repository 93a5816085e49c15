/** The side bar: the rooms that were visited, and on narrow screens a drawer. @module */

import { $, element, recall, remember } from "../page.js";
import { cleanRoom } from "./words.js";

export const DEFAULT_ROOM = "lobby";

export class Sidebar {
  #leave;
  /** @type {string[]} */
  #visited = [];

  /** @param {(room: string) => void} enter @param {(room: string) => void} leave */
  constructor(enter, leave) {
    this.#leave = leave;
    const visited = recall("localStorage", "rooms");
    if (Array.isArray(visited))
      this.#visited = visited.filter((room) => typeof room === "string" && cleanRoom(room) === room);
    $("go").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const room = cleanRoom($("go-room").value);
      $("go-room").value = "";
      if (room) enter(room);
    });
    $("menu").addEventListener("click", () => this.#drawer(true));
    $("scrim").addEventListener("click", () => this.#drawer(false));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && $("side").matches(".shown")) this.#drawer(false);
    });
    matchMedia("(min-width: 761px)").addEventListener("change", () => this.close());
  }

  /** @param {string} room */
  visit(room) {
    if (this.#visited.includes(room)) return;
    this.#visited = [...this.#visited, room].slice(-20);
    remember("localStorage", "rooms", this.#visited);
  }

  /** @param {string} room */
  forget(room) {
    this.#visited = this.#visited.filter((one) => one !== room);
    remember("localStorage", "rooms", this.#visited);
  }

  /** @param {string} current @param {(room: string) => number} unread */
  show(current, unread) {
    const shown = this.#visited.includes(DEFAULT_ROOM) ? this.#visited : [DEFAULT_ROOM, ...this.#visited];
    $("rooms").replaceChildren(...shown.map((room) => this.#row(room, room === current, unread(room))));
  }

  /** @param {string} room @param {boolean} current @param {number} unread */
  #row(room, current, unread) {
    const link = element("a", "", room);
    link.href = `#${encodeURIComponent(room)}`;
    if (current) link.setAttribute("aria-current", "page");
    else if (unread) {
      const badge = element("span", "badge", unread > 99 ? "99+" : String(unread));
      badge.append(element("span", "hidden-label", " unread"));
      link.append(badge);
    }
    link.addEventListener("click", () => this.close());
    const row = element("li", "", link);
    if (room === DEFAULT_ROOM) return row; // where one is without any other
    const leave = element("button", "leave");
    leave.type = "button";
    leave.ariaLabel = `Leave ${room}`;
    leave.title = `Leave #${room}`;
    leave.addEventListener("click", () => this.#leave(room));
    row.append(leave);
    return row;
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
