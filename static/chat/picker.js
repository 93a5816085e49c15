/** Choosing a reaction: a small board of them beside the message, for the mouse, the finger and the arrows. @module */

import { button, element, recall, remember } from "../page.js";


const KINDS = [
  ["👍", "thumbs up"], ["❤️", "heart"], ["😂", "tears of joy"], ["🎉", "party"], ["😮", "surprised"], ["😢", "sad"],
  ["🙏", "thanks"], ["👏", "applause"], ["🔥", "fire"], ["💯", "hundred"], ["✅", "done"], ["👀", "looking"],
  ["🚀", "rocket"], ["🤔", "thinking"], ["😅", "relieved"], ["🙌", "hooray"], ["👎", "thumbs down"], ["☕", "coffee"],
]; // prettier-ignore
const COLUMNS = 6;
/** How many of those that one has used stand first. */
const USED = 6;

export class Picker {
  #board = element("div", "picker");
  /** @type {((kind: string) => void) | null} */
  #chosen = null;
  /** @type {HTMLElement | null} */
  #opener = null;

  constructor() {
    this.#board.popover = "auto";
    this.#board.setAttribute("role", "dialog");
    this.#board.ariaLabel = "Choose a reaction";
    this.#board.addEventListener("keydown", (event) => this.#move(event));
    this.#board.addEventListener("toggle", (event) => {
      if (/** @type {any} */ (event).newState === "closed" && this.#opener?.isConnected) this.#opener.focus();
    });
    document.body.append(this.#board);
  }

  /** @param {HTMLElement} opener @param {(kind: string) => void} chosen */
  open(opener, chosen) {
    this.#chosen = chosen;
    this.#opener = opener;
    const used = [recall("localStorage", "reactions") ?? []].flat().filter((/** @type {any} */ kind) => KINDS.some(([one]) => one === kind));
    const kinds = [...KINDS].sort(([one], [other]) => place(used, one) - place(used, other));
    this.#board.replaceChildren(
      ...kinds.map(([kind, name]) => {
        const choice = button("", kind);
        choice.ariaLabel = choice.title = name;
        choice.addEventListener("click", () => this.#choose(kind, used));
        return choice;
      }),
    );
    this.#board.showPopover();
    const { left, top, bottom } = opener.getBoundingClientRect();
    const { width, height } = this.#board.getBoundingClientRect();
    this.#board.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#board.style.top = `${top - height - 6 > 8 ? top - height - 6 : Math.min(bottom + 6, innerHeight - height - 8)}px`;
    /** @type {HTMLElement} */ (this.#board.firstElementChild).focus();
  }

  /** @param {string} kind @param {string[]} used */
  #choose(kind, used) {
    remember("localStorage", "reactions", [kind, ...used.filter((one) => one !== kind)].slice(0, USED));
    this.#board.hidePopover();
    this.#chosen?.(kind);
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS }[event.key];
    if (!step) return;
    event.preventDefault();
    const choices = /** @type {HTMLElement[]} */ ([...this.#board.children]);
    choices[choices.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + step]?.focus();
  }
}

/** @param {string[]} used @param {string} kind */
function place(used, kind) {
  const index = used.indexOf(kind);
  return index < 0 ? USED : index;
}
