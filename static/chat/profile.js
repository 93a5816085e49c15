/** Somebody, and what one can do about that: a small card beside the name. @module */

import { button, element } from "../page.js";
import { avatar } from "./parts.js";

export class Profile {
  #card = element("div", "profile");

  constructor() {
    this.#card.popover = "auto";
    this.#card.setAttribute("role", "dialog");
    document.body.append(this.#card);
  }

  /**
   * @param {HTMLElement} opener @param {string} user @param {{role: string | null, blocked: boolean, talk: (() => void) | null,
   *   call: (() => void) | null, block: (on: boolean) => void}} ways
   */
  open(opener, user, { role, blocked, talk, call, block }) {
    const name = element("b", "", user);
    name.dir = "auto";
    const ways = element("p", "ways");
    /** @param {string} label @param {() => void} act */
    const add = (label, act) => {
      const way = button("quiet-button", label);
      way.addEventListener("click", () => {
        this.#card.hidePopover();
        act();
      });
      ways.append(way);
    };
    if (talk) add("Message", talk);
    if (call) add("Mention", call);
    add(blocked ? "Unblock" : "Block", () => block(!blocked));
    this.#card.ariaLabel = user;
    this.#card.replaceChildren(avatar(user, "large"), element("div", "who", name, element("small", "", role ?? "")), ways);
    this.#card.showPopover();
    const { left, top, bottom } = opener.getBoundingClientRect();
    const { width, height } = this.#card.getBoundingClientRect();
    this.#card.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#card.style.top = `${bottom + 6 + height < innerHeight ? bottom + 6 : Math.max(8, top - height - 6)}px`;
    ways.querySelector("button")?.focus();
  }
}
