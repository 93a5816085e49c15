/** The buttons that choose how far back is shown, and the way back to now. @module */

import { button } from "../page.js";

/** @typedef {import("./frame.js").Frame} Frame */

/**
 * @param {HTMLElement} place @param {Frame} frame @param {Map<number, string>} ranges  ms → what it is called
 * @param {(span: number) => void} [chosen]
 */
export function showRanges(place, frame, ranges, chosen) {
  const buttons = [...ranges].map(([span, words]) => {
    const made = button("quiet-button", words);
    made.addEventListener("click", () => {
      frame.follow(span);
      chosen?.(span);
    });
    return /** @type {const} */ ([span, made]);
  });
  const back = button("quiet-button back", "Back to live");
  back.addEventListener("click", () => {
    buttons.find(([span]) => span === frame.span)?.[1].focus();
    frame.follow();
  });
  const show = () => {
    back.hidden = frame.live;
    for (const [span, button] of buttons) button.setAttribute("aria-pressed", String(frame.live && span === frame.span));
  };
  frame.on(show);
  show();
  place.replaceChildren(...buttons.map(([, button]) => button), back);
}
