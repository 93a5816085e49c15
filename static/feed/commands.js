/** The command menu: everything that can be done, found by a few letters. Loaded when the page has come to rest. @module */

import { element } from "../page.js";
import { Palette } from "../palette.js";

/** @typedef {{ words: string, of?: string, keys?: string, group: string, icon?: Element, does: () => unknown }} Command */

const WORDS = { name: "Commands", label: "Find a command", entries: "Commands", placeholder: "What would you like to do?", none: "Nothing is called like that." };

/** How well the letters are found in a text, in their order; 0: not. @param {string} wanted @param {string} text */
function fit(wanted, text) {
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

/** The best first, and then without headings. @param {Command[]} commands @param {string} words */
function fitting(commands, words) {
  const wanted = words.toLowerCase();
  if (!wanted) return commands;
  return commands
    .map((one) => ({ one, score: fit(wanted, `${one.words} ${one.of ?? ""}`.toLowerCase()) }))
    .filter(({ score }) => score > 0)
    .sort((one, other) => other.score - one.score)
    .map(({ one }) => ({ ...one, group: "" }));
}

/** @param {Command} command */
function row({ words, of, keys, icon }) {
  const name = element("span", "", words, ...(of ? [element("small", "", ` ${of}`)] : []));
  return element("li", "command", ...(icon ? [icon] : []), name, ...(keys ? [element("kbd", "", keys)] : []));
}

export class CommandMenu {
  /** @type {Palette<Command>} */
  #palette = new Palette("commands", WORDS, row, (command) => void command.does());

  /** @param {Command[]} commands */
  open(commands) {
    this.#palette.open((words) => fitting(commands, words));
  }
}
