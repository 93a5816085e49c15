/** Channels of two users. @module */

/** What separates names, or has no place in one of a channel. */
// eslint-disable-next-line no-control-regex
const NOT_IN_NAMES = /[,%\s\u0000-\u001f\u007f-\u009f]/gu;

/**
 * The name of the channel of two users, whichever is named first: `dm:ann,bob`.
 *
 * @param {string} namespace @param {string} one @param {string} other
 */
export function directName(namespace, one, other) {
  const names = [one, other].sort(byCodePoints).map((name) => name.replace(NOT_IN_NAMES, encodeURIComponent));
  return `${namespace}:${names.join(",")}`;
}

/** @param {string} one @param {string} other */
function byCodePoints(one, other) {
  const [first, second] = [one, other].map((name) => [...name].map((character) => character.codePointAt(0) ?? 0));
  const place = first.findIndex((point, index) => point !== second[index]);
  return place < 0 ? first.length - second.length : first[place] - (second[place] ?? -1);
}
