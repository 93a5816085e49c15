/**
 * Jumping: a field, and below it what there is to go to, by the keyboard alone. The field keeps the focus; which entry is
 * chosen is told by `aria-activedescendant`.
 *
 * @module
 */

import { element } from "../page.js";
import { avatar, icon } from "./parts.js";

export { targetsFor } from "./targets.js";

/**
 * @typedef {object} Target  something to go to
 * @property {string} group  under which heading it stands
 * @property {string} title
 * @property {string} [hint]  what is said behind the title
 * @property {import("./parts.js").Icon} [icon]
 * @property {string} [face]  whose face stands in front
 * @property {number} [unread]
 * @property {boolean} [always]  whatever is typed
 * @property {() => void} go
 */

const SHOWN = 12;

export class Palette {
  #dialog = element("dialog", "palette");
  #field = element("input");
  #list = element("ul");
  #none = element("p", "hint", "There is nothing like that.");
  /** @type {Target[]} */
  #shown = [];
  #chosen = 0;
  /** @type {(words: string) => Target[]} */
  #targets = () => [];

  constructor() {
    this.#dialog.ariaLabel = "Jump to";
    const label = element("label", "hidden-label", "Jump to");
    label.htmlFor = this.#field.id = "palette-words";
    this.#list.id = "palette-list";
    this.#list.setAttribute("role", "listbox");
    this.#list.ariaLabel = "Places";
    this.#none.setAttribute("role", "status");
    Object.assign(this.#field, { placeholder: "A room, a person, a word…", autocomplete: "off", autocapitalize: "none", spellcheck: false, enterKeyHint: "go" });
    const roles = { role: "combobox", "aria-expanded": "true", "aria-autocomplete": "list", "aria-controls": this.#list.id };
    for (const [name, value] of Object.entries(roles)) this.#field.setAttribute(name, value);
    const keys = element("p", "keys-hint", element("kbd", "", "↑"), element("kbd", "", "↓"), " choose ", element("kbd", "", "Enter"), " go ", element("kbd", "", "Esc"), " close");
    keys.ariaHidden = "true";
    this.#dialog.append(element("div", "field", icon("search"), label, this.#field), this.#list, this.#none, keys);
    this.#field.addEventListener("input", () => this.#draw());
    this.#field.addEventListener("keydown", (event) => this.#key(event));
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    document.body.append(this.#dialog);
  }

  /** @param {(words: string) => Target[]} targets  for what is typed */
  open(targets) {
    if (this.#dialog.open) return this.#dialog.close();
    this.#targets = targets;
    this.#field.value = "";
    this.#dialog.showModal();
    this.#draw();
  }

  #draw() {
    const words = this.#field.value.trim();
    const fitting = this.#targets(words)
      .map((target) => ({ target, rank: target.always ? 0 : rankOf(target.title, words) }))
      .filter(({ rank }) => rank >= 0);
    const order = [...new Set(fitting.map(({ target }) => target.group))];
    fitting.sort((one, other) => order.indexOf(one.target.group) - order.indexOf(other.target.group) || one.rank - other.rank);
    /** @type {Map<string, number>} */
    const counts = new Map();
    this.#shown = fitting
      .map(({ target }) => target)
      .filter(({ group }) => counts.set(group, (counts.get(group) ?? 0) + 1).get(group) <= SHOWN / 2)
      .slice(0, SHOWN);
    let group = "";
    this.#list.replaceChildren(
      ...this.#shown.flatMap((target, place) => {
        const row = this.#row(target, place);
        if (target.group === group) return [row];
        group = target.group;
        const heading = element("li", "group", group);
        heading.setAttribute("role", "presentation");
        return [heading, row];
      }),
    );
    this.#none.hidden = this.#shown.length > 0;
    this.#choose(0);
  }

  /** @param {Target} target @param {number} place */
  #row({ title, hint, icon: name, face, unread }, place) {
    const row = element("li", "", face ? avatar(face, "small") : icon(name ?? "room"), element("span", "name", title));
    if (hint) row.append(element("small", "", hint));
    if (unread) row.append(element("span", "badge", unread > 99 ? "99+" : String(unread), element("span", "hidden-label", " unread")));
    row.id = `palette-${place}`;
    row.setAttribute("role", "option");
    row.addEventListener("pointermove", () => this.#chosen !== place && this.#choose(place, false));
    row.addEventListener("click", () => this.#go(place));
    return row;
  }

  /** @param {number} place @param {boolean} [scroll] */
  #choose(place, scroll = true) {
    const rows = [...this.#list.querySelectorAll("[role=option]")];
    this.#chosen = rows.length ? (place + rows.length) % rows.length : 0;
    for (const [index, row] of rows.entries()) row.setAttribute("aria-selected", String(index === this.#chosen));
    const row = rows[this.#chosen];
    if (row) this.#field.setAttribute("aria-activedescendant", row.id);
    else this.#field.removeAttribute("aria-activedescendant");
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
  }

  /** @param {number} place */
  #go(place) {
    const target = this.#shown[place];
    if (!target) return;
    this.#dialog.close();
    target.go();
  }
}

/** How well a title is what was typed, 0 the best; negative: not at all. @param {string} title @param {string} words */
function rankOf(title, words) {
  const [name, wanted] = [title.toLowerCase(), words.toLowerCase().replace(/^[#@]/, "")];
  if (name.startsWith(wanted)) return 0;
  if (name.split(/[^\p{L}\p{N}]+/u).some((word) => word.startsWith(wanted))) return 1;
  if (name.includes(wanted)) return 2;
  let at = 0;
  for (const letter of wanted) {
    at = name.indexOf(letter, at) + 1;
    if (!at) return -1;
  }
  return 3;
}
