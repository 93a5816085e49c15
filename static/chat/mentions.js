/** Calling somebody by name: `@ann` is offered while one writes, and travels with the message. @module */

import { element } from "../page.js";

/** The word for every member. */
const ALL = "all";
const OFFERED = 6;
/** As in names of accounts. */
const CALLED = /(^|[\s(])@([A-Za-z0-9][A-Za-z0-9._@+-]*)/g;

/** Whom a text calls, of those who are there. @param {string} text @param {string[]} members @returns {string[]} */
export function mentionsIn(text, members) {
  const names = new Map(members.map((user) => [user.toLowerCase(), user]));
  const called = [...text.matchAll(CALLED)].map(([, , name]) => name.toLowerCase().replace(/[.+-]+$/, ""));
  return [...new Set(called.map((name) => (name === ALL ? "*" : names.get(name))).filter((user) => user !== undefined))];
}

/** Who may be called in a room, and the list of them while a name is being written. */
export class Mentions {
  #field;
  #names;
  #list = element("ul", "offers");
  #chosen = 0;

  /** @param {HTMLTextAreaElement} field  in a form @param {() => string[]} names  who is there */
  constructor(field, names) {
    this.#field = field;
    this.#names = names;
    this.#list.id = `${field.id}-offers`;
    this.#list.hidden = true;
    this.#list.setAttribute("role", "listbox");
    this.#list.ariaLabel = "Members";
    field.form?.append(this.#list);
    field.setAttribute("aria-autocomplete", "list");
    field.setAttribute("aria-controls", this.#list.id);
    field.addEventListener("input", () => this.#offer());
    field.addEventListener("blur", () => this.#close());
    field.addEventListener("keydown", (event) => this.#key(event), true);
  }

  /** What is written of a name in front of the cursor. */
  get #begun() {
    const { value, selectionStart } = this.#field;
    return /(?:^|[\s(])@([A-Za-z0-9._+-]*)$/.exec(value.slice(0, selectionStart))?.[1] ?? null;
  }

  #offer() {
    const begun = this.#begun?.toLowerCase();
    const names = begun === undefined ? [] : [...this.#names(), ...(this.#names().length ? [ALL] : [])];
    const offered = names.filter((name) => name.toLowerCase().startsWith(begun ?? "")).slice(0, OFFERED);
    if (!offered.length) return this.#close();
    this.#list.replaceChildren(
      ...offered.map((name, index) => {
        const offer = element("li", "", `@${name}`);
        offer.id = `${this.#list.id}-${index}`;
        offer.setAttribute("role", "option");
        offer.addEventListener("pointerdown", (event) => {
          event.preventDefault(); // the field keeps the focus
          this.#take(name);
        });
        return offer;
      }),
    );
    this.#list.hidden = false;
    this.#choose(0);
  }

  /** @param {number} index */
  #choose(index) {
    const offers = [...this.#list.children];
    this.#chosen = (index + offers.length) % offers.length;
    for (const [place, offer] of offers.entries()) offer.setAttribute("aria-selected", String(place === this.#chosen));
    this.#field.setAttribute("aria-activedescendant", `${this.#list.id}-${this.#chosen}`);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (this.#list.hidden || event.isComposing) return;
    if (event.key === "ArrowDown") this.#choose(this.#chosen + 1);
    else if (event.key === "ArrowUp") this.#choose(this.#chosen - 1);
    else if (event.key === "Enter" || event.key === "Tab") this.#take(this.#list.children[this.#chosen].textContent?.slice(1) ?? "");
    else if (event.key === "Escape") this.#close();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  /** @param {string} name */
  #take(name) {
    const field = this.#field;
    const from = field.selectionStart - (this.#begun?.length ?? 0);
    field.setRangeText(`${name} `, from, field.selectionStart, "end");
    this.#close();
    field.dispatchEvent(new Event("input"));
  }

  #close() {
    this.#list.hidden = true;
    this.#field.removeAttribute("aria-activedescendant");
  }
}
