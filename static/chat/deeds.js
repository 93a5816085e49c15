/** What one may do with a message, and how it is done. @module */

/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./message.js").Deeds} Deeds */

/**
 * @param {import("./room.js").Room} room @param {Message} message @param {string | null} me
 * @param {{change: (change: Promise<any>) => void, answer: (message: Message) => void, link: (message: Message) => void}} ways
 *   `change`: one that may be refused; `answer`: in its thread; `link`: copy its address
 * @returns {Deeds}
 */
export function deedsOf(room, message, me, { change, answer, link }) {
  const { may, role } = room;
  const own = me !== null && message.user === me;
  const amends = may.has("amend") || (own && may.has("amend_own"));
  /** @type {Deeds} */
  const deeds = {};
  if (may.has("react")) deeds.react = (kind, on) => change(room.react(message, kind, on));
  if (room.has.has("threads") && (may.has("publish") || message.replies?.count)) deeds.reply = () => answer(message);
  if (own && may.has("amend_own")) deeds.edit = (text) => change(room.edit(message, text));
  if (amends) deeds.pin = () => change(room.pin(message));
  if (role !== null && !own) deeds.unread = () => change(room.keepUnread(message));
  if (navigator.clipboard && !room.name.startsWith("/$")) deeds.link = () => link(message);
  if (amends) deeds.erase = () => change(room.erase(message));
  return deeds;
}
