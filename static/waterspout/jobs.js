/** Working for a consumer whose messages are fetched: `client.consume`. @module */

/** Seconds for which the server holds a question that it has no message for. */
const WAIT = 30;

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */

/** A message to work on: one worker's until its lease is over. */
export class Job {
  #client;
  #consumer;
  #settled = false;

  /** @param {Waterspout} client @param {string} consumer @param {any} fields */
  constructor(client, consumer, fields) {
    this.#client = client;
    this.#consumer = consumer;
    /** @type {string} */
    this.id = fields.id;
    /** @type {string} */
    this.channel = fields.channel;
    /** @type {number} */
    this.offset = fields.offset;
    /** @type {string} */
    this.key = fields.key;
    /** @type {string | null} */
    this.user = fields.user;
    /** Milliseconds since 1970. @type {number} */
    this.time = fields.time;
    this.data = fields.data;
    /** 1: nobody has had it before. @type {number} */
    this.delivery = fields.delivery;
    /** `amend`: what has become of the message at the offset `of`, and `op` says what. @type {string} */
    this.type = fields.type ?? "message";
    /** @type {number | undefined} */
    this.of = fields.of;
    /** @type {string | undefined} */
    this.op = fields.op;
    /** All that the server says of it: `deleted`, `thread`, `reactions`… where there are any. @type {any} */
    this.fields = fields;
  }

  /** Whether it was said what became of it. */
  get settled() {
    return this.#settled;
  }

  /** It is done. The loop says so itself when it asks for the next one. @returns {Promise<void>} */
  async ack() {
    this.#settled = true;
    await this.#client.request("ack", { consumer: this.#consumer, ids: [this.id] });
  }

  /** It is not done, and is to be handed out again, after so many seconds. @param {number} [delay] @returns {Promise<void>} */
  async nack(delay = 0) {
    this.#settled = true;
    await this.#client.request("nack", { consumer: this.#consumer, ids: [this.id], delay });
  }
}

/**
 * @param {Waterspout} client
 * @param {string} consumer
 * @param {{limit?: number, onGap?: (gap: any) => void}} options
 * @returns {AsyncGenerator<Job, void, void>}
 */
export async function* consume(client, consumer, { limit = 10, onGap }) {
  for (;;) {
    const { messages, gaps = [] } = await client.request("fetch", { consumer, limit, wait: WAIT });
    const jobs = messages.map((/** @type {any} */ fields) => new Job(client, consumer, fields));
    try {
      for (const gap of gaps) onGap?.(gap);
      for (const job of jobs) {
        yield job;
        if (!job.settled) await job.ack();
      }
    } finally {
      // The loop was left: others need not wait for the end of the lease.
      const ids = jobs.filter((/** @type {Job} */ job) => !job.settled).map((/** @type {Job} */ job) => job.id);
      if (ids.length) await client._once("nack", { consumer, ids }).catch(() => {});
    }
  }
}
