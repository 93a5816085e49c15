/** Names and texts from outside: anybody may publish anything, so nothing is taken as it comes. @module */

export { offsetOf } from "../waterspout/tools.js";

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

/**
 * A room's name, as it stands behind the `#` of the address: of `chat:lobby` only `lobby`, of any other channel all of
 * it behind a slash, `/team:garden`. No white space, and no more than a channel's name can have.
 *
 * @param {string} value */
export function cleanRoom(value) {
  let room = value.normalize("NFC").trim().replace(/^#+/, "").replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, "").replace(/\s+/g, "-");
  if (/^\/[a-z][a-z0-9_-]*:./.test(room)) return [...room].slice(0, 120).join("");
  room = room.toLowerCase();
  return [...room].slice(0, 60).join("");
}

/** @param {string} room */
export const channelOf = (room) => (room.startsWith("/") ? room.slice(1) : `chat:${room}`);

/** @param {string} channel */
export const roomOf = (channel) => (channel.startsWith("chat:") ? channel.slice(5) : `/${channel}`);

/** Where two people talk, in a channel with both their names. */
export const DIRECT = "dm";

/** Where rooms with members are made by name, if the server has this namespace. */
export const TEAM = "team";

/** Whether it is a conversation of two. @param {string} room */
export const isDirect = (room) => room.startsWith(`/${DIRECT}:`);

/** As people read it; of a conversation of two, who the other one is. @param {string} room @param {string | null} [me] */
export function titleOf(room, me = null) {
  if (isDirect(room)) return namesOf(room).find((name) => name !== me) ?? me ?? "";
  return room.startsWith("/") ? room.slice(room.indexOf(":") + 1) : room;
}

/** The same, as it is named in a sentence. @param {string} room @param {string | null} [me] */
export const nameOf = (room, me = null) => (isDirect(room) ? titleOf(room, me) : `#${titleOf(room)}`);

/** Of a conversation of two. @param {string} room @returns {string[]} */
function namesOf(room) {
  const names = room.slice(DIRECT.length + 2).split(",");
  try {
    return names.map(decodeURIComponent);
  } catch {
    return names;
  }
}

/** Characters that turn the direction of what follows, so that a text reads as another than it is. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** What a message of the channel says to people. Never throws.
 *
 * @param {any} push @param {(key: string, user: string | null) => boolean} isMine @returns {Message} */
export function readMessage(push, isMine) {
  const { key, offset, cursor, time, user, version = 0, edited = false, pinned = false, deleted, replies } = push;
  let { data } = push;
  if (deleted) data = { name: cleanName(user), text: "" };
  const spoken = data !== null && typeof data === "object" && typeof data.text === "string";
  const raw = !spoken && typeof data !== "string";
  const text = String(raw ? JSON.stringify(data) : spoken ? data.text : data);
  const name = cleanName(user) || (spoken && cleanName(data.name)) || "Anonymous"; // whom the server knows is nobody else
  const when = Number.isFinite(time) && Math.abs(time) < 8.64e15 ? time : Date.now();
  const words = { name, text: text.replace(TURNS, "").slice(0, MAX_TEXT), mine: isMine(key, user ?? null), raw };
  const mentions = Array.isArray(push.mentions) ? push.mentions : [];
  const more = { mentions, thread: push.thread, version, edited, pinned, erased: deleted !== undefined, replies, counted: push.counted ?? push.reactions ?? [] };
  return { key, offset, cursor, time: when, user, ...more, ...words };
}

/** @param {number} count @param {string} noun @param {string} [plural] */
export const some = (count, noun, plural = `${noun}s`) => `${count} ${count === 1 ? noun : plural}`;
