/** The way to the server that is tried first. @module */

import { Link } from "./link.js";
import { written } from "./tools.js";

/** @typedef {{encode: (value: any) => Uint8Array, decode: (bytes: Uint8Array) => any}} MessagePack */

export class WebSocketLink extends Link {
  #socket;
  #msgpack;

  /**
   * @param {any} WebSocket
   * @param {string} url
   * @param {MessagePack | undefined} msgpack  without it: JSON
   * @param {number} patience
   * @param {import("./link.js").Events} events
   */
  constructor(WebSocket, url, msgpack, patience, events) {
    super(patience, events);
    this.#msgpack = msgpack;
    const socket = (this.#socket = new WebSocket(url, [msgpack ? "waterspout.msgpack" : "waterspout.json"]));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => events.open();
    socket.onmessage = (/** @type {{data: any}} */ event) => this.#read(event.data);
    socket.onclose = (/** @type {{code: number, reason: string}} */ event) => this.end(event.code, event.reason);
    // A close event follows in the same task, and says more; in Node 20 it does not come if there was no connection.
    socket.onerror = () => void setTimeout(() => this.end(1006, "no connection"));
  }

  get transport() {
    return "websocket";
  }

  /** @param {any} command */
  _transmit(command) {
    const data = this.#msgpack ? this.#msgpack.encode(command) : written(command);
    if (data.length > this.largest) throw this._tooLarge();
    this.#socket.send(data);
    return data.length;
  }

  /** @param {any} data */
  #read(data) {
    let push;
    try {
      push = this.#msgpack ? this.#msgpack.decode(new Uint8Array(data)) : JSON.parse(data);
    } catch {
      return this.end(1007, "not what was agreed on");
    }
    this._take(push);
  }

  _close() {
    this.#socket.close(); // may take long on a dead network; nobody waits for it
  }
}
