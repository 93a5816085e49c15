/** The console's buttons. @module */

import { element } from "../page.js";

/** @param {string} words @param {() => unknown} act @param {boolean} [grave]  asked once more before it is done
 * @param {string} [of]  whom it is about, where only a list around it shows that */
export function button(words, act, grave = false, of = "") {
  const word = element("span", "", words);
  const made = element("button", "quiet-button", word, ...(of ? [element("span", "hidden-label", ` ${of}`)] : []));
  made.type = "button";
  let sure = !grave;
  const ask = (/** @type {boolean} */ asked) => {
    sure = asked || !grave;
    word.textContent = asked && grave ? `Really ${words.toLowerCase()}?` : words;
  };
  made.addEventListener("click", () => {
    if (sure) void act();
    ask(!sure);
  });
  made.addEventListener("blur", () => ask(false));
  return made;
}
