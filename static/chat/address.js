/** Rooms, and messages in them, as the page's address names them: `#garden`, `#garden&at=12`. @module */

import { cleanRoom } from "./words.js";

/** Where one is without any. */
export const DEFAULT_ROOM = "lobby";

/** @param {string} room @param {number} [at]  a message there */
export const addressOf = (room, at) => `#${encodeURIComponent(room)}${at === undefined ? "" : `&at=${at}`}`;

/** What is asked for: a room, and perhaps a message in it. @returns {{room: string, at: number | null}} */
export function placeOfAddress() {
  const [, name, at] = /^#?(.*?)(?:&at=(\d{1,15}))?$/.exec(location.hash) ?? ["", "", undefined];
  let room = name;
  try {
    room = decodeURIComponent(name);
  } catch {
    // a % that stands for itself
  }
  return { room: cleanRoom(room) || DEFAULT_ROOM, at: at === undefined ? null : Number(at) };
}

/** Into the clipboard, to be pasted somewhere. @param {string} room @param {number} at @param {import("./banner.js").Banner} banner */
export async function copyAddress(room, at, banner) {
  try {
    await navigator.clipboard.writeText(new URL(addressOf(room, at), location.href).href);
    banner.tell("The link is copied.");
  } catch {
    banner.say("bad", "This browser does not let the page copy.");
  }
}
