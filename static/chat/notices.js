/** The desktop's notifications, for who has asked for them: somebody wants one, and the page is not looked at. @module */

import { recall, remember } from "../page.js";

/** @typedef {import("./memberships.js").Row} Row */

export class Notices {
  #go;
  /** How much each room wanted of one the last time. @type {Map<string, number> | null} */
  #before = null;

  /** @param {(room: string) => void} go  the notification was clicked */
  constructor(go) {
    this.#go = go;
  }

  /** What hinders them; empty: nothing. */
  get hindrance() {
    if (!("Notification" in window)) return "This browser has none.";
    return Notification.permission === "denied" ? "This browser does not let the page show them." : "";
  }

  get on() {
    return recall("localStorage", "notices") === true && "Notification" in window && Notification.permission === "granted";
  }

  /** @param {boolean} on */
  async set(on) {
    const granted = on && (await Notification.requestPermission()) === "granted";
    remember("localStorage", "notices", granted);
    return granted;
  }

  /** What wants one is what mentions one, and what is said to one alone.
   *
   * @param {Row[]} rows @param {(room: string) => string} words  what was said last, if that is known */
  follow(rows, words) {
    const now = new Map(rows.map((row) => [row.name, row.direct && !row.mute ? row.unread : row.mentions]));
    for (const row of this.#before && document.hidden && this.on ? rows : []) {
      const before = this.#before?.get(row.name) ?? 0;
      if ((now.get(row.name) ?? 0) > before) this.#show(row, words(row.name));
    }
    this.#before = now;
  }

  /** @param {Row} row @param {string} words */
  #show({ name, title, direct }, words) {
    const what = direct ? `${title} writes to you` : `You are mentioned in #${title}`;
    const notice = new Notification(what, { body: words, tag: name, icon: "/static/icon.svg" });
    notice.onclick = () => {
      window.focus();
      this.#go(name);
      notice.close();
    };
  }
}
