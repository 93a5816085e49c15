/** What the log of changes still has of an instrument: read backwards, as far as somebody looks. @module */

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {import("./instrument.js").Instrument} Instrument */

const PAGE = 500;
/** Pages that one instrument is worth. */
const MOST = 40;

export class Past {
  #channel;
  #instrument;
  /** @type {string | undefined} */
  #before;
  #pages = 0;
  #reading = false;
  #wanted = Infinity;
  /** The volume of the change after those that are read. */
  #volume = NaN;
  /** How far back it is known: ms since 1970. */
  reached = Infinity;
  /** There is nothing further back. */
  ended = false;

  /** @param {Waterspout} client @param {Instrument} instrument */
  constructor(client, instrument) {
    this.#channel = client.channel("docs:instruments");
    this.#instrument = instrument;
  }

  /** @param {number} time  ms since 1970 @param {() => void} came  called whenever there is more */
  async reach(time, came) {
    this.#wanted = Math.min(this.#wanted, time);
    if (this.#reading) return;
    this.#reading = true;
    try {
      while (!this.ended && this.reached > this.#wanted && this.#pages < MOST) {
        await this.#read();
        came();
      }
    } catch {
      this.ended = true; // not ours to read, or not kept
    } finally {
      this.#reading = false;
    }
  }

  async #read() {
    const bounds = { limit: PAGE, where: { _id: this.#instrument.symbol }, ...(this.#before ? { before: this.#before } : {}) };
    const { messages, cursor, more } = await this.#channel.history(bounds);
    this.#pages++;
    for (const { time, data } of messages.toReversed()) {
      const { price, volume } = data?.document ?? {};
      if (!Number.isFinite(price)) continue;
      // What was traded with a change is what the volume was less before it.
      const traded = Number.isFinite(volume) && this.#volume >= volume ? this.#volume - volume : 0;
      this.#instrument.series.fill(time, price, traded);
      this.#volume = volume;
      this.reached = Math.min(this.reached, time);
    }
    this.#before = messages[0]?.cursor ?? cursor;
    this.ended = !more;
  }
}
