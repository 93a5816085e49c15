/** How the console writes numbers and times. @module */

import { element } from "../page.js";

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const count = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

/** @param {number} value */
export const rate = (value) => (value < 10 ? fine : count).format(value);
/** @param {number | null | undefined} seconds */
export const millis = (seconds) => (seconds == null ? "–" : `≤ ${fine.format(seconds * 1000)} ms`);
/** @param {number} bytes */
export const size = (bytes) => (bytes < 1e4 ? `${count.format(bytes)} B` : `${fine.format(bytes / 1e6)} MB`);
/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}
/** @param {number} time */
export const at = (time) => element("time", "", clock.format(time));

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
/** @param {number} time  milliseconds since 1970 */
export const when = (time) => moment.format(time);

/** How long ago that was, in one unit. @param {number | null} time  milliseconds since 1970 */
export function ago(time) {
  if (time === null) return "–";
  const seconds = Math.max(0, (Date.now() - time) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}
