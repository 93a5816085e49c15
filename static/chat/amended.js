/** What becomes of a message that is shown. @module */

/** @typedef {import("./transcript.js").Message} Message */

/**
 * The message as it is behind an amendment; null: that changes nothing of it.
 *
 * @param {Message} message @param {any} push
 * @param {(change: object) => Message} read  the message anew, with some of its push changed
 */
export function amended(message, { op, data, version }, read) {
  if (message.erased) return null;
  if (op === "delete") return read({ deleted: {}, reactions: undefined, replies: undefined });
  if (op === "edit") return version > message.version ? read({ data, version, edited: true }) : null;
  if (op === "pin") return { ...message, pinned: data !== false };
  return null;
}
