/** The console's buttons. @module */

import { button as plain, element } from "../page.js";

/** @param {string} words @param {() => unknown} act @param {boolean} [grave]  asked once more before it is done
 * @param {string} [of]  whom it is about, where only a list around it shows that */
export function button(words, act, grave = false, of = "") {
  const word = element("span", "", words);
  const made = plain("quiet-button", word, ...(of ? [element("span", "hidden-label", ` ${of}`)] : []));
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

/** A name that opens what it is of. @param {string} name @param {() => unknown} act */
export function link(name, act) {
  const made = plain("link", name);
  made.addEventListener("click", () => void act());
  return made;
}
