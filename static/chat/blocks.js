/** Whom one wants to hear nothing of. The server keeps them out of conversations of two; in rooms the page hides what they
 * say.
 *
 * @module
 */

export class Blocks {
  #client;
  #onchange;
  /** @type {Set<string>} */
  #users = new Set();

  /** @param {import("../waterspout.js").Waterspout} client @param {() => void} onchange */
  constructor(client, onchange) {
    this.#client = client;
    this.#onchange = onchange;
  }

  /** @returns {string[]} */
  get users() {
    return [...this.#users].sort();
  }

  /** @param {string} user */
  has(user) {
    return this.#users.has(user);
  }

  async load() {
    this.#users = new Set(await this.#client.blocked());
    if (this.#users.size) this.#onchange();
  }

  /** @param {string} user @param {boolean} on */
  async set(user, on) {
    await this.#client.block(user, on);
    if (on) this.#users.add(user);
    else this.#users.delete(user);
    this.#onchange();
  }
}
