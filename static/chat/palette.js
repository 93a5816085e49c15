/** Jumping: to a room, a person, a thread, a panel. @module */

import { element } from "../page.js";
import { Palette } from "../palette.js";
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
const WORDS = { name: "Jump to", label: "Jump to", entries: "Places", placeholder: "A room, a person, a word…", none: "There is nothing like that." };

export class JumpPalette {
  /** @type {Palette<Target>} */
  #palette = new Palette("palette", WORDS, row, (target) => target.go());

  constructor() {
    const { dialog, field } = this.#palette;
    const keys = element("p", "keys-hint", element("kbd", "", "↑"), element("kbd", "", "↓"), " choose ", element("kbd", "", "Enter"), " go ", element("kbd", "", "Esc"), " close");
    keys.ariaHidden = "true";
    dialog.prepend(element("div", "field", icon("search"), field));
    dialog.append(keys);
  }

  /** @param {(words: string) => Target[]} targets  for what is typed */
  open(targets) {
    this.#palette.open((words) => fitting(targets(words), words));
  }
}

/** Group by group, the best first: no more of one than half of all. @param {Target[]} targets @param {string} words */
function fitting(targets, words) {
  const found = targets
    .map((target) => ({ target, rank: target.always ? 0 : rankOf(target.title, words) }))
    .filter(({ rank }) => rank >= 0);
  const order = [...new Set(found.map(({ target }) => target.group))];
  found.sort((one, other) => order.indexOf(one.target.group) - order.indexOf(other.target.group) || one.rank - other.rank);
  /** @type {Map<string, number>} */
  const counts = new Map();
  return found
    .map(({ target }) => target)
    .filter(({ group }) => counts.set(group, (counts.get(group) ?? 0) + 1).get(group) <= SHOWN / 2)
    .slice(0, SHOWN);
}

/** @param {Target} target */
function row({ title, hint, icon: name, face, unread }) {
  const made = element("li", "", face ? avatar(face, "small") : icon(name ?? "room"), element("span", "name", title));
  if (hint) made.append(element("small", "", hint));
  if (unread) made.append(element("span", "badge", unread > 99 ? "99+" : String(unread), element("span", "hidden-label", " unread")));
  return made;
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
