/** Short words at the edge of the page that go by themselves, perhaps with something to do about it. @module */

import { $, button, element } from "./page.js";

const STAYS = 6000;
const MOST = 4;

/**
 * @param {string} words @param {{ act?: string, does?: () => unknown, bad?: boolean, stays?: number }} [options]
 *   `act`: the word on the button that `does` it
 * @returns {() => void} takes it away
 */
export function toast(words, { act, does, bad = false, stays = STAYS } = {}) {
  let place = $("toasts");
  if (!place) {
    place = element("div", "toasts");
    place.id = "toasts";
    place.role = "status";
    document.body.append(place);
  }
  const one = element("div", bad ? "toast bad" : "toast", element("span", "", words));
  const go = () => {
    clearTimeout(timer);
    one.remove();
  };
  if (act && does) {
    const made = button("quiet-button", act);
    made.addEventListener("click", () => (go(), does()));
    one.append(made);
  }
  const close = button("icon", "×");
  close.ariaLabel = "Close";
  close.addEventListener("click", go);
  one.append(close);
  let timer = setTimeout(go, stays);
  // Whoever is about to use it has the time to.
  for (const name of ["pointerenter", "focusin"]) one.addEventListener(name, () => clearTimeout(timer));
  for (const name of ["pointerleave", "focusout"]) one.addEventListener(name, () => (timer = setTimeout(go, stays)));
  place.append(one);
  while (place.children.length > MOST) place.firstElementChild.remove();
  return go;
}
