/** Which time several plots show, and the moment in it that is pointed at: what they have in common. @module */

export class Frame {
  /** @type {Set<() => void>} */
  #listeners = new Set();
  /** Where it stands still: [from, to]. @type {[number, number] | null} */
  #fixed = null;
  /** ms since 1970 @type {number | null} */
  cursor = null;
  /** What is being selected. @type {[number, number] | null} */
  brush = null;

  /** @param {number} span  ms that are shown while it is live */
  constructor(span) {
    this.span = span;
  }

  /** @param {() => void} listener  called when something else is to be shown, but not as time goes on */
  on(listener) {
    this.#listeners.add(listener);
  }

  changed() {
    for (const listener of this.#listeners) listener();
  }

  get live() {
    return this.#fixed === null;
  }

  /** @param {number} now @returns {[number, number]} */
  window(now) {
    return this.#fixed ?? [now - this.span, now];
  }

  /** So much up to now, and on with it. @param {number} [span] */
  follow(span = this.span) {
    this.span = span;
    this.#fixed = null;
    this.changed();
  }

  /** @param {number} from @param {number} to */
  zoom(from, to) {
    this.#fixed = [from, Math.min(to, Date.now())];
    this.changed();
  }

  /** As it is at the moment. */
  hold() {
    this.#fixed ??= this.window(Date.now());
    this.changed();
  }

  /** @param {number | null} time */
  point(time) {
    if (time === this.cursor) return;
    this.cursor = time;
    this.changed();
  }

  /** @param {[number, number] | null} brush */
  select(brush) {
    this.brush = brush;
    this.changed();
  }
}
