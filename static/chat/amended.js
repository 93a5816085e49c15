/** What becomes of a message that is shown. @module */

import { appended } from "../waterspout/amending.js";

/** @typedef {import("./transcript.js").Message} Message */

/**
 * The message as it is behind an amendment; null: that changes nothing of it.
 *
 * @param {Message} message @param {any} push @param {import("../waterspout/reacting.js").Reactions} reactions
 * @param {(change: object) => Message} read  the message anew, with some of its push changed
 * @returns {Message | null}
 */
export function amended(message, push, reactions, read) {
  const { op, data, version, edited = true } = push;
  if (message.erased) return null;
  switch (op) {
    case "delete":
      reactions.forget(message.offset);
      return read({ deleted: {}, reactions: undefined, replies: undefined });
    case "edit":
      return version > message.version ? read({ data, version, edited }) : null;
    case "append":
      if (version <= message.version) return null;
      return { ...message, text: appended(message.text, data), version, writing: !push.done };
    case "pin":
      return { ...message, pinned: data !== false };
    case "reactions":
      return { ...message, counted: reactions.counted({ offset: message.offset, reactions: message.counted }, push).reactions ?? [] };
    case "replies":
      return push.at < (message.repliesAt ?? 0) ? null : { ...message, replies: push.replies, repliesAt: push.at };
    default:
      return null;
  }
}
