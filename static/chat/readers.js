/** Who has read the newest message, where it is one's own: as a short word below it. @module */

import { $ } from "../page.js";

/** Names that are told; of more their number. */
const NAMED = 3;

/** @param {import("./room.js").Room} room @param {string | null} me */
export function showReaders(room, me) {
  const last = room.newest;
  const users = last?.mine && !last.erased ? (room.readers?.of(last.offset) ?? []).filter((user) => user !== me) : [];
  const names = users.sort();
  const words = names.length > NAMED ? `${names.length} members` : list(names);
  $("seen").textContent = names.length ? `Seen by ${words}` : "";
}

/** @param {string[]} names */
function list(names) {
  return new Intl.ListFormat(undefined, { type: "conjunction" }).format(names);
}
