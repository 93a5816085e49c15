/** What one may do with a message, and how it is done. @module */

/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./message.js").Deeds} Deeds */

/**
 * @param {import("./room.js").Room} room @param {Message} message @param {string | null} me
 * @param {(change: Promise<any>) => void} change  one that may be refused
 * @param {(message: Message) => void} answer  in its thread
 * @returns {Deeds}
 */
export function deedsOf(room, message, me, change, answer) {
  const { may, role } = room;
  const own = me !== null && message.user === me;
  /** @type {Deeds} */
  const deeds = {};
  if (may.has("react")) deeds.react = (kind, on) => change(room.react(message, kind, on));
  if (room.has.has("threads") && (may.has("publish") || message.replies?.count)) deeds.reply = () => answer(message);
  if (own && may.has("amend_own")) deeds.edit = (text) => change(room.edit(message, text));
  const amends = may.has("amend") || (own && may.has("amend_own"));
  if (amends) deeds.pin = () => change(room.pin(message));
  if (role !== null && !own) deeds.unread = () => change(room.keepUnread(message));
  if (amends) deeds.erase = () => change(room.erase(message));
  return deeds;
}
