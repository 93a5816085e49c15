/** Small things that many parts of the page are made of. @module */

import { element, svg } from "../page.js";

const ICONS = {
  react: "M10 17.5a7.5 7.5 0 1 0 0-15 7.5 7.5 0 0 0 0 15ZM7.3 8h.01M12.7 8h.01M6.8 11.7c.8 1.4 1.9 2.1 3.2 2.1s2.4-.7 3.2-2.1",
  reply: "M17 10.2c0 3.4-3.1 6-7 6-1 0-2-.2-2.9-.5L3.5 17l1-3.2C3.6 12.8 3 11.6 3 10.2c0-3.4 3.1-6 7-6s7 2.6 7 6Z",
  edit: "m4 16 .8-3.3 8.4-8.4a1.8 1.8 0 0 1 2.5 2.5l-8.4 8.4L4 16Zm7.8-10.3 2.5 2.5",
  erase: "M4.5 6h11M8 6V4.5h4V6m-6 0 .6 10h6.8L14 6m-5.3 3v4m2.6-4v4",
  unread: "M10 5.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9Zm6.5-2.5v4m-2-2h4",
  pin: "m12 3 5 5-3 1-3.5 3.5.5 3-1.5 1.5L4.5 12 6 10.5l3 .5L12.5 7.5 12 3ZM7 14l-3.5 3.5",
  search: "M14.2 9a5.2 5.2 0 1 1-10.4 0 5.2 5.2 0 0 1 10.4 0ZM13 13l4 4",
  link: "M8.5 11.5a3 3 0 0 0 4.2 0l2.8-2.8a3 3 0 0 0-4.2-4.2l-1 1M11.5 8.5a3 3 0 0 0-4.2 0l-2.8 2.8a3 3 0 0 0 4.2 4.2l1-1",
  room: "M8 3 6.5 17M13.5 3 12 17M3.5 7.5h13.5M3 12.5h13.5",
  people: "M10 3.8a3.2 3.2 0 1 1 0 6.4 3.2 3.2 0 0 1 0-6.4ZM3.8 16.5c.8-3 3.2-4.6 6.2-4.6s5.4 1.6 6.2 4.6",
  settings: "M3 6h8m4 0h2M3 14h2m4 0h8M13 4v4M7 12v4",
};

/** @typedef {keyof typeof ICONS} Icon */

/** @param {Icon} name @returns {any} */
export function icon(name) {
  const drawn = svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" });
  drawn.append(svg("path", { d: ICONS[name] }));
  return drawn;
}

/** The colour class of a name. @param {string} name */
export function hue(name) {
  let hash = 0x811c9dc5; // FNV-1a: short names that differ in one letter come apart
  for (let index = 0; index < name.length; index++) hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193);
  return `hue-${(hash >>> 16) % 8}`;
}

/** @param {string} name */
export function initial(name) {
  return ([...name][0] ?? "?").toUpperCase();
}

/** @param {string} name @param {string} [more] classes */
export function avatar(name, more = "") {
  const made = element("span", `avatar ${hue(name)} ${more}`, initial(name));
  made.ariaHidden = "true";
  return made;
}

/** What cannot be taken back is asked about once: the button says so, and means it when it is pressed again.
 *
 * @param {HTMLButtonElement} button @param {() => void} act */
export function sure(button, act) {
  if (button.dataset.sure) return act();
  const before = [...button.childNodes];
  const label = button.ariaLabel ?? button.textContent ?? "";
  button.dataset.sure = "asked";
  button.ariaLabel = null;
  button.textContent = `${label}?`;
  const calm = () => {
    delete button.dataset.sure;
    button.ariaLabel = label;
    button.replaceChildren(...before);
  };
  button.addEventListener("blur", calm, { once: true });
}

/** What a panel says while it has nothing to show. @param {Icon} name @param {string} title @param {string} words */
export function nothing(name, title, words) {
  return element("div", "nothing", icon(name), element("strong", "", title), element("p", "", words));
}
