/** Names and texts from outside: anybody may publish anything, so nothing is taken as it comes. @module */

/** @typedef {import("./transcript.js").Message} Message */

const MAX_NAME = 40;
const MAX_TEXT = 8000;

/** One line without what could pass it off as another name: control, direction and zero-width characters.
 *
 * @param {any} value */
export function cleanName(value) {
  if (typeof value !== "string") return "";
  const name = value
    .normalize("NFC")
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, "")
    .replace(/\s+/g, " ")
    .trim();
  return [...name].slice(0, MAX_NAME).join("");
}

/** A room's name as it can stand in a channel's: no white space, at most 255 bytes with `chat:`.
 *
 * @param {string} value */
export function cleanRoom(value) {
  let room = value.normalize("NFC").trim().replace(/^#+/, "").toLowerCase();
  room = room.replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, "").replace(/\s+/g, "-");
  return [...room].slice(0, 60).join("");
}

/** Characters that turn the direction of what follows, so that a text reads as another than it is. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** What a message of the channel says to people. Never throws.
 *
 * @param {any} push @param {(key: string) => boolean} isMine @returns {Message} */
export function readMessage({ key, offset, cursor, time, user, data, version = 0, edited = false, deleted }, isMine) {
  if (deleted) data = { name: cleanName(user), text: "" };
  const spoken = data !== null && typeof data === "object" && typeof data.text === "string";
  const raw = !spoken && typeof data !== "string";
  const text = String(raw ? JSON.stringify(data) : spoken ? data.text : data);
  const name = cleanName(user) || (spoken && cleanName(data.name)) || "Anonymous"; // whom the server knows is nobody else
  const when = Number.isFinite(time) && Math.abs(time) < 8.64e15 ? time : Date.now();
  const words = { name, text: text.replace(TURNS, "").slice(0, MAX_TEXT), mine: isMine(key), raw };
  return { key, offset, cursor, time: when, user, version, edited, erased: deleted !== undefined, ...words };
}

/** @param {number} count @param {string} noun */
export const some = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
