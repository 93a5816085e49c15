/** A value over time in a fixed amount of memory: fine for the newest, coarser further back. @module */

/** The last value of each slot, with the lowest and the highest, and what was counted. */
class Level {
  #last;
  #low;
  #high;
  #volume;
  /** The number of the newest slot. */
  newest = -1;

  /** @param {number} slot  ms @param {number} size  slots */
  constructor(slot, size) {
    this.slot = slot;
    this.size = size;
    this.#last = new Float64Array(size).fill(NaN);
    this.#low = new Float64Array(size);
    this.#high = new Float64Array(size);
    this.#volume = new Float64Array(size);
  }

  /** @param {number} time @param {number} value @param {number} volume @param {boolean} past */
  put(time, value, volume, past) {
    const slot = Math.floor(time / this.slot);
    if (slot <= this.newest - this.size) return;
    if (slot > this.newest) this.#advance(slot);
    const at = slot % this.size;
    const empty = Number.isNaN(this.#last[at]);
    this.#low[at] = empty ? value : Math.min(this.#low[at], value);
    this.#high[at] = empty ? value : Math.max(this.#high[at], value);
    if (empty || !past) this.#last[at] = value;
    this.#volume[at] += volume;
  }

  /** @param {number} slot */
  #advance(slot) {
    for (let next = Math.max(this.newest + 1, slot - this.size + 1); next <= slot; next++) {
      this.#last[next % this.size] = NaN;
      this.#volume[next % this.size] = 0;
    }
    this.newest = slot;
  }

  /** @param {number} time  whether it is still kept */
  reaches(time) {
    return Math.floor(time / this.slot) > this.newest - this.size;
  }

  /** @param {number} from @param {number} to @param {See} see */
  each(from, to, see) {
    const first = Math.max(0, this.newest - this.size + 1, Math.floor(from / this.slot) - 1);
    const last = Math.min(this.newest, Math.floor(to / this.slot) + 1);
    for (let slot = first; slot <= last; slot++) {
      const at = slot % this.size;
      const value = this.#last[at];
      // At its end, which for the newest slot has not come yet.
      if (!Number.isNaN(value)) see(Math.min(Date.now(), (slot + 1) * this.slot), value, this.#low[at], this.#high[at], this.#volume[at]);
    }
  }

  /** The newest value that is not younger. @param {number} time */
  at(time) {
    for (let slot = Math.min(this.newest, Math.floor(time / this.slot)); slot > this.newest - this.size && slot >= 0; slot--) {
      const value = this.#last[slot % this.size];
      if (!Number.isNaN(value)) return value;
    }
    return null;
  }
}

/** @typedef {(time: number, value: number, low: number, high: number, volume: number) => void} See */

export class Series {
  #levels;

  /** @param {[number, number][]} levels  ms of a slot, and how many of them are kept; the finest first */
  constructor(levels) {
    this.#levels = levels.map(([slot, size]) => new Level(slot, size));
  }

  /** @param {number} time  ms since 1970 @param {number} value @param {number} [volume] */
  add(time, value, volume = 0) {
    for (const level of this.#levels) level.put(time, value, volume, false);
  }

  /** Something of the past, the newest first: what is known already stays. @param {number} time @param {number} value @param {number} [volume] */
  fill(time, value, volume = 0) {
    for (const level of this.#levels) level.put(time, value, volume, true);
  }

  /** The finest that reaches back so far. @param {number} from */
  #level(from) {
    return this.#levels.find((level) => level.reaches(from)) ?? /** @type {Level} */ (this.#levels.at(-1));
  }

  /** From left to right, whatever is known, and one more on each side. @param {number} from @param {number} to @param {See} see */
  each(from, to, see) {
    this.#level(from).each(from, to, see);
  }

  /** What it was then; null: not known. @param {number} time @param {number} from  beginning of what is shown */
  at(time, from) {
    return this.#level(from).at(time);
  }
}
