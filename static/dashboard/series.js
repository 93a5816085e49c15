/** A price over time in a fixed amount of memory: the last of each slot, the newest two minutes. @module */

/** Milliseconds of a slot. */
export const SLOT = 250;
export const SLOTS = 480;

export class Series {
  #prices = new Float64Array(SLOTS).fill(NaN);
  #volumes = new Float64Array(SLOTS);
  /** The number of the newest slot, counted from when the page was opened. */
  #newest = -1;

  /** @param {number} time  ms @param {number} price @param {number} volume  since the last one */
  add(time, price, volume) {
    const slot = Math.floor(time / SLOT) + SLOTS; // what was before the page was opened has a slot, too
    if (slot < 0 || slot <= this.#newest - SLOTS) return;
    if (slot > this.#newest) this.#advance(slot);
    this.#prices[slot % SLOTS] = price;
    this.#volumes[slot % SLOTS] += volume;
  }

  /** @param {number} slot */
  #advance(slot) {
    for (let next = Math.max(this.#newest + 1, slot - SLOTS + 1); next <= slot; next++) {
      this.#prices[next % SLOTS] = NaN;
      this.#volumes[next % SLOTS] = 0;
    }
    this.#newest = slot;
  }

  /** How old the oldest point is, in ms. @param {number} now */
  age(now) {
    let oldest = 0;
    this.each(now, (age) => (oldest = Math.max(oldest, age)));
    return oldest;
  }

  /**
   * From left to right: `see(age in ms, price, volume)` for every slot in which there was a tick.
   *
   * @param {number} now @param {(age: number, price: number, volume: number) => void} see
   */
  each(now, see) {
    const last = Math.floor(now / SLOT) + SLOTS;
    for (let slot = Math.max(0, last - SLOTS + 1); slot <= this.#newest; slot++) {
      const price = this.#prices[slot % SLOTS];
      if (!Number.isNaN(price)) see(Math.max(0, now - (slot - SLOTS + 1) * SLOT), price, this.#volumes[slot % SLOTS]);
    }
  }
}
