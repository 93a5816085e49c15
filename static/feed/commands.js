/** The command menu: everything that can be done, found by a few letters. Loaded when the page has come to rest. @module */

import { element } from "../page.js";

/** @typedef {{ words: string, of?: string, keys?: string, group: string, icon?: Element, does: () => unknown }} Command */

/** How well the letters are found in a text, in their order; 0: not. @param {string} wanted @param {string} text */
function fit(wanted, text) {
  if (!wanted) return 1;
  const whole = text.indexOf(wanted);
  if (whole >= 0) return 100 - whole + (whole === 0 || text[whole - 1] === " " ? 100 : 0);
  let at = -1;
  let score = 1;
  for (const letter of wanted.replaceAll(" ", "")) {
    const next = text.indexOf(letter, at + 1);
    if (next < 0) return 0;
    if (next === at + 1) score += 2;
    at = next;
  }
  return score / 2;
}

export class CommandMenu {
  #dialog = element("dialog", "commands");
  #input = element("input");
  #list = element("ul");
  #none = element("p", "hint none", "Nothing is called like that.");
  /** @type {Command[]} */
  #all = [];
  /** @type {Command[]} */
  #found = [];
  #at = 0;

  constructor() {
    this.#dialog.ariaLabel = "Commands";
    Object.assign(this.#input, { placeholder: "What would you like to do?", autocomplete: "off", spellcheck: false, role: "combobox" });
    this.#input.ariaLabel = "Find a command";
    this.#input.ariaExpanded = "true";
    this.#input.setAttribute("aria-controls", "commands-found");
    this.#input.setAttribute("aria-autocomplete", "list");
    this.#list.id = "commands-found";
    this.#list.role = "listbox";
    this.#list.ariaLabel = "Commands";
    this.#dialog.append(this.#input, this.#list, this.#none);
    document.body.append(this.#dialog);
    this.#input.addEventListener("input", () => this.#find());
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.#dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {Command[]} commands */
  open(commands) {
    this.#all = commands;
    this.#input.value = "";
    this.#find();
    this.#dialog.showModal();
    this.#input.focus();
  }

  #find() {
    const wanted = this.#input.value.trim().toLowerCase();
    const scored = this.#all.map((one, at) => /** @type {const} */ ([fit(wanted, `${one.words} ${one.of ?? ""}`.toLowerCase()), at, one]));
    const found = scored.filter(([score]) => score > 0);
    if (wanted) found.sort(([one, first], [other, second]) => other - one || first - second);
    this.#found = found.map(([, , one]) => one);
    this.#at = 0;
    let group = "";
    const rows = this.#found.flatMap((one, at) => {
      const row = element("li", "command", ...(one.icon ? [one.icon] : []), element("span", "", one.words, ...(one.of ? [element("small", "", ` ${one.of}`)] : [])));
      row.role = "option";
      row.id = `command-${at}`;
      if (one.keys) row.append(element("kbd", "", one.keys));
      row.addEventListener("pointermove", () => this.#choose(at));
      row.addEventListener("click", () => this.#run(one));
      if (wanted || one.group === group) return [row];
      group = one.group;
      const title = element("li", "command-group", group);
      title.role = "presentation";
      return [title, row];
    });
    this.#list.replaceChildren(...rows);
    this.#list.hidden = !rows.length;
    this.#none.hidden = rows.length > 0;
    this.#choose(0);
  }

  /** @param {number} at */
  #choose(at) {
    const rows = [...this.#list.querySelectorAll(".command")];
    rows[this.#at]?.setAttribute("aria-selected", "false");
    this.#at = at;
    rows[at]?.setAttribute("aria-selected", "true");
    rows[at]?.scrollIntoView({ block: "nearest" });
    if (rows[at]) this.#input.setAttribute("aria-activedescendant", rows[at].id);
    else this.#input.removeAttribute("aria-activedescendant");
  }

  /** @param {Command} command */
  #run(command) {
    this.#dialog.close();
    void command.does();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const count = this.#found.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined && count) this.#choose((this.#at + step + count) % count);
    else if (event.key === "Enter" && this.#found[this.#at]) this.#run(this.#found[this.#at]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
