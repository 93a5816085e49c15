/**
 * A field, and below it what may be chosen, under headings, by the keyboard alone. The field keeps the focus; which entry
 * is chosen is told by `aria-activedescendant`.
 *
 * @module
 */

import { element } from "./page.js";

/** @template {{ group: string }} Entry  `group`: the heading that it stands under; "": none */
export class Palette {
  field = element("input");
  #list = element("ul");
  #none;
  #row;
  #take;
  /** @type {(words: string) => Entry[]} */
  #find = () => [];
  /** @type {Entry[]} */
  #shown = [];
  #chosen = 0;

  /**
   * @param {string} kind  its class @param {Record<"name" | "label" | "entries" | "placeholder" | "none", string>} words
   *   what the dialog, its field and its list are called, what stands in the field, and where nothing is found
   * @param {(entry: Entry) => HTMLElement} row @param {(entry: Entry) => void} take  what is done with the chosen one
   */
  constructor(kind, { name, label, entries, placeholder, none }, row, take) {
    this.#row = row;
    this.#take = take;
    this.dialog = element("dialog", kind);
    this.dialog.ariaLabel = name;
    this.#list.id = "palette-list";
    this.#list.setAttribute("role", "listbox");
    this.#list.ariaLabel = entries;
    this.#none = element("p", "hint none", none);
    this.#none.setAttribute("role", "status");
    Object.assign(this.field, { placeholder, autocomplete: "off", autocapitalize: "none", spellcheck: false, enterKeyHint: "go" });
    const roles = { role: "combobox", "aria-label": label, "aria-expanded": "true", "aria-autocomplete": "list", "aria-controls": this.#list.id };
    for (const [role, value] of Object.entries(roles)) this.field.setAttribute(role, value);
    this.dialog.append(this.field, this.#list, this.#none);
    this.field.addEventListener("input", () => this.#draw());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    document.body.append(this.dialog);
  }

  /** @param {(words: string) => Entry[]} find  what fits what is typed, in order */
  open(find) {
    if (this.dialog.open) return this.dialog.close();
    this.#find = find;
    this.field.value = "";
    this.dialog.showModal();
    this.field.focus();
    this.#draw();
  }

  #draw() {
    this.#shown = this.#find(this.field.value.trim());
    let group = "";
    const rows = this.#shown.flatMap((entry, place) => {
      const row = this.#row(entry);
      row.id = `palette-${place}`;
      row.setAttribute("role", "option");
      row.addEventListener("pointermove", () => this.#chosen !== place && this.#choose(place, false));
      row.addEventListener("click", () => this.#go(place));
      if (entry.group === group) return [row];
      group = entry.group;
      const heading = element("li", "palette-group", group);
      heading.setAttribute("role", "presentation");
      return [heading, row];
    });
    this.#list.replaceChildren(...rows);
    this.#list.hidden = !rows.length;
    this.#none.hidden = rows.length > 0;
    this.#choose(0);
  }

  /** @param {number} place @param {boolean} [scroll] */
  #choose(place, scroll = true) {
    const rows = [...this.#list.querySelectorAll("[role=option]")];
    this.#chosen = rows.length ? (place + rows.length) % rows.length : 0;
    for (const [index, row] of rows.entries()) row.setAttribute("aria-selected", String(index === this.#chosen));
    const row = rows[this.#chosen];
    if (row) this.field.setAttribute("aria-activedescendant", row.id);
    else this.field.removeAttribute("aria-activedescendant");
    if (scroll) row?.scrollIntoView({ block: "nearest" });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") this.#choose(this.#chosen + 1);
    else if (event.key === "ArrowUp") this.#choose(this.#chosen - 1);
    else if (event.key === "Enter") this.#go(this.#chosen);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the page has keys of its own
  }

  /** @param {number} place */
  #go(place) {
    const entry = this.#shown[place];
    if (!entry) return;
    this.dialog.close();
    this.#take(entry);
  }
}
