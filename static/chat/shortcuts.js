/** The keys that work wherever one is on the page. @module */

import { $ } from "../page.js";

const APPLE = /Mac|iP(hone|ad)/.test(navigator.platform);
export const COMMAND = APPLE ? "⌘" : "Ctrl";

/** @param {import("./chat.js").Page} page */
export function bindShortcuts(page) {
  $("jump").querySelector("kbd").textContent = `${COMMAND} K`;
  document.addEventListener("keydown", (event) => {
    const command = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey;
    if (command && event.key.toLowerCase() === "k") void page.beside.jump();
    else if (event.altKey && !event.ctrlKey && !event.metaKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const name = page.list.beside(event.key === "ArrowUp" ? -1 : 1);
      if (name === null) return;
      page.go(name);
    } else return;
    event.preventDefault();
  });
}
