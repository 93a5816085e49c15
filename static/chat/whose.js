/** Whose it is what a tab remembers of rooms, drafts, and what was not sent yet. @module */

import { forget, recall, remember } from "../page.js";

/** Before anything of it is read: who signs in where somebody else was sees nothing of that, and sends none of it in their
 * own name. What a guest has begun goes on as the user's. @param {string | null} user */
export function forgetOthers(user) {
  const before = recall("sessionStorage", "whose");
  remember("sessionStorage", "whose", user);
  if (before === null || before === user) return;
  forget("localStorage", "rooms");
  forget("sessionStorage", "drafts");
  for (const key of Object.keys(sessionStorage)) {
    if (key.startsWith("waterspout.room.")) forget("sessionStorage", key.slice("waterspout.".length));
  }
}
