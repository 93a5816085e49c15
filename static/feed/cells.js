/** Parts of a row: values that are edited in place, a status with its menu. @module */

import { button, element, svg } from "../page.js";
import { STEPS } from "./views.js";

/** Into a part of a row, if that says something else. @param {HTMLElement} row @param {string} selector @param {string} words */
export function write(row, selector, words) {
  const place = row.querySelector(selector);
  if (place && place.textContent !== words) place.textContent = words;
}

/**
 * A value that becomes a field when it is clicked: Enter or leaving it keeps what was typed, Esc does not.
 *
 * @param {string} kind  its class @param {{ name: () => string, value: () => string, save: (typed: number) => void, step?: string }} options
 */
export function editable(kind, { name, value, save, step = "1" }) {
  const cell = button(`cell ${kind}`);
  cell.addEventListener("click", () => {
    const input = element("input", `cell-input ${kind}`);
    Object.assign(input, { type: "number", min: "0", step, value: value() });
    input.ariaLabel = name();
    let done = false;
    const end = (/** @type {boolean} */ keep) => {
      if (done) return;
      done = true;
      const back = document.activeElement === input;
      const typed = input.valueAsNumber;
      input.replaceWith(cell);
      if (back) cell.focus();
      if (keep && Number.isFinite(typed) && typed >= 0 && String(typed) !== value()) save(typed);
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    cell.replaceWith(input);
    input.focus();
    input.select();
  });
  return cell;
}

/** How far an order is: a ring that fills. @param {string} status */
export function ring(status) {
  const reached = STEPS.indexOf(status) / (STEPS.length - 1);
  const made = svg("svg", { class: "ring", viewBox: "0 0 16 16", "aria-hidden": "true" });
  made.append(svg("circle", { class: "ring-of", cx: 8, cy: 8, r: 6.25 }));
  if (reached === 1) made.append(svg("circle", { class: "ring-full", cx: 8, cy: 8, r: 6.25 }), svg("path", { class: "ring-tick", d: "M5 8.2l2.1 2.1L11.2 6" }));
  else if (reached > 0) {
    const round = 2 * Math.PI * 2;
    made.append(svg("circle", { class: "ring-part", cx: 8, cy: 8, r: 2, "stroke-dasharray": `${round * reached} ${round}`, transform: "rotate(-90 8 8)" }));
  }
  made.dataset.status = status;
  return made;
}

/**
 * A menu at a place on the page, used with the arrow keys as well.
 *
 * @param {HTMLElement} at @param {string} name @param {{ words: string, icon?: Element, chosen?: boolean, does: () => void }[]} items
 */
export function openMenu(at, name, items) {
  const menu = element("div", "menu");
  menu.popover = "auto";
  menu.role = "menu";
  menu.ariaLabel = name;
  const buttons = items.map(({ words, icon, chosen, does }) => {
    const made = button("", ...(icon ? [icon] : []), words);
    made.role = "menuitemradio";
    made.ariaChecked = String(chosen === true);
    made.addEventListener("click", () => {
      menu.hidePopover();
      does();
    });
    return made;
  });
  menu.append(...buttons);
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const now = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    buttons[(now + step + buttons.length) % buttons.length].focus();
  });
  menu.addEventListener("toggle", (event) => {
    if (/** @type {ToggleEvent} */ (event).newState !== "closed") return;
    menu.remove();
    if (at.isConnected) at.focus();
  });
  document.body.append(menu);
  menu.showPopover();
  const { left, bottom, top } = at.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  menu.style.top = `${bottom + height + 8 < innerHeight ? bottom + 4 : Math.max(8, top - height - 4)}px`;
  (buttons.find((one) => one.ariaChecked === "true") ?? buttons[0]).focus();
}
