/** A list that is used with the keyboard: one row is the active one, any of them are selected. @module */

import { element } from "../page.js";

/** @typedef {{ title: string, rows: [string, HTMLElement][], more?: number }} Group  rows by id; `more`: that are not shown */

const CONTROLS = "button, input, a";

export class List {
  /** @type {Set<string>} */
  selected = new Set();
  /** @type {string | null} */
  active = null;
  /** Where a selection of many began. @type {string | null} */
  #anchor = null;
  /** In order. @type {[string, HTMLElement][]} */
  #rows = [];
  /** @type {Map<string, HTMLElement>} */
  #titles = new Map();
  #place;
  #chosen;

  /** @param {HTMLElement} place @param {() => void} chosen  called when something else is selected */
  constructor(place, chosen) {
    this.#place = place;
    this.#chosen = chosen;
    place.addEventListener("focusin", (event) => {
      const id = /** @type {HTMLElement} */ (event.target).closest("li")?.dataset.id;
      if (id !== undefined) this.#activate(id);
    });
    place.addEventListener("click", (event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      const row = target.closest("li");
      if (row?.dataset.id && !target.closest(CONTROLS)) row.focus();
    });
  }

  /** A box to select a row by. @param {string} id @param {string} name */
  box(id, name) {
    const box = element("input", "pick");
    box.type = "checkbox";
    box.ariaLabel = `Select ${name}`;
    box.addEventListener("click", (event) => {
      if (event.shiftKey && this.#anchor !== null) this.#selectTo(id, box.checked);
      else this.select(id, box.checked);
    });
    return box;
  }

  /** In place, so that what has the focus or a mark keeps it. @param {Group[]} groups */
  show(groups) {
    this.#rows = groups.flatMap((group) => group.rows);
    const there = new Set(this.#rows.map(([id]) => id));
    const gone = this.active !== null && !there.has(this.active) ? this.#place.querySelector(".active") : null;
    const at = gone ? [...this.#place.querySelectorAll("[data-id]")].indexOf(gone) : -1;
    const lost = gone?.contains(document.activeElement);
    const focus = document.activeElement;
    const wanted = groups.flatMap((group) => [...this.#title(group), ...group.rows.map(([, row]) => row)]);
    wanted.forEach((one, index) => {
      if (this.#place.children[index] !== one) this.#place.insertBefore(one, this.#place.children[index] ?? null);
    });
    while (this.#place.childElementCount > wanted.length) this.#place.lastElementChild?.remove();
    for (const [id, row] of this.#rows) row.dataset.id = id;
    if (focus instanceof HTMLElement && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
    if (gone) this.#activate(this.#rows[Math.min(at, this.#rows.length - 1)]?.[0] ?? null);
    if (lost) this.#row(this.active)?.focus({ preventScroll: true });
    const before = this.selected.size;
    for (const id of this.selected) if (!there.has(id)) this.selected.delete(id);
    if (this.active === null || !there.has(this.active)) this.#activate(this.#rows[0]?.[0] ?? null);
    this.#mark();
    if (before !== this.selected.size) this.#chosen();
  }

  /** @param {Group} group */
  #title({ title, rows, more = 0 }) {
    if (!title || !rows.length) return [];
    let one = this.#titles.get(title);
    if (!one) this.#titles.set(title, (one = element("li", "group", element("h3"))));
    const words = `${title} ${rows.length + more}`;
    const head = /** @type {HTMLElement} */ (one.firstElementChild);
    if (head.textContent !== words) head.replaceChildren(title, " ", element("small", "", String(rows.length + more)));
    return [one];
  }

  /** @param {string | null} id */
  #row(id) {
    return this.#rows.find(([one]) => one === id)?.[1];
  }

  /** Its controls are what one comes to by Tab; those of all others are not. @param {string | null} id */
  #activate(id) {
    this.active = id;
    this.#mark();
  }

  #mark() {
    for (const [id, row] of this.#rows) {
      const here = id === this.active;
      row.classList.toggle("active", here);
      row.tabIndex = here ? 0 : -1;
      for (const control of row.querySelectorAll(CONTROLS)) /** @type {HTMLElement} */ (control).tabIndex = here ? 0 : -1;
      const selected = this.selected.has(id);
      row.classList.toggle("selected", selected);
      const box = row.querySelector(".pick");
      if (box instanceof HTMLInputElement) box.checked = selected;
    }
  }

  /** @param {number} by @param {boolean} [select]  what one goes over */
  move(by, select = false) {
    const at = this.#rows.findIndex(([id]) => id === this.active);
    const focused = this.#place.contains(document.activeElement);
    const next = this.#rows[focused ? Math.min(this.#rows.length - 1, Math.max(0, at + by)) : Math.max(0, at)];
    if (!next) return;
    if (select && this.active !== null) this.selected.add(this.active).add(next[0]);
    next[1].focus();
    next[1].scrollIntoView({ block: "nearest" });
    if (select) {
      this.#mark();
      this.#chosen();
    }
  }

  /** @param {string} id @param {boolean} [on] */
  select(id, on = !this.selected.has(id)) {
    if (on) this.selected.add(id);
    else this.selected.delete(id);
    this.#anchor = id;
    this.#mark();
    this.#chosen();
  }

  /** @param {string} id @param {boolean} on */
  #selectTo(id, on) {
    const ids = this.#rows.map(([one]) => one);
    const [from, to] = [ids.indexOf(this.#anchor ?? id), ids.indexOf(id)].sort((one, other) => one - other);
    for (const one of ids.slice(Math.max(0, from), to + 1)) {
      if (on) this.selected.add(one);
      else this.selected.delete(one);
    }
    this.#mark();
    this.#chosen();
  }

  all() {
    for (const [id] of this.#rows) this.selected.add(id);
    this.#mark();
    this.#chosen();
  }

  none() {
    this.selected.clear();
    this.#mark();
    this.#chosen();
  }

  /** What is meant: the selected ones, else the active one. */
  get meant() {
    if (this.selected.size) return [...this.selected];
    return this.active === null ? [] : [this.active];
  }
}
