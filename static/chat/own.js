/** What this browser has said, whichever of its tabs: a guest has no name that could tell. @module */

import { remember } from "../page.js";

/** How many keys of its messages the tabs tell each other. */
const OWN = 300;

let ownWritten = "";
/** @type {Set<string>} */
let ownKeys = new Set();

/** The keys of what this browser's tabs have said: read again whenever another tab has written. */
export function own() {
  try {
    const written = localStorage.getItem("waterspout.own") ?? "[]";
    if (written !== ownWritten) ownKeys = new Set(JSON.parse(written));
    ownWritten = written;
  } catch {
    // refused, or not ours
  }
  return ownKeys;
}

/** @param {string} key */
export function addOwn(key) {
  remember("localStorage", "own", [...own(), key].slice(-OWN));
}
