// A client on a scripted WebSocket.

import { Waterspout } from "../../static/waterspout.js";

/** A client, and the sockets it has made. `answer` replies to `connect` and `subscribe` by itself. */
export function begin(t, options = {}) {
  const sockets = [];
  class Socket {
    sent = [];
    constructor(url) {
      this.url = url;
      sockets.push(this);
      queueMicrotask(() => this.onopen());
    }
    send(text) {
      const command = JSON.parse(text);
      this.sent.push(command);
      if (command.type === "connect") this.push({ type: "reply", id: command.id, session: "s", user: null, ping: 25 });
      if (command.type === "subscribe") {
        this.push({
          type: "reply",
          id: command.id,
          cursor: command.after ?? "e:0",
          head: command.after ?? "e:0",
          recovered: true,
        });
      }
    }
    push(object) {
      this.onmessage({ data: JSON.stringify(object) });
    }
    reply(command, fields) {
      this.push({ type: "reply", id: command.id, ...fields });
    }
    refuse(command, fields) {
      this.push({ type: "error", id: command.id, retry: true, ...fields });
    }
    drop(code, reason = "") {
      this.onclose({ code, reason });
    }
    close() {}
    publishes() {
      return this.sent.filter((command) => command.type === "publish");
    }
  }
  const client = new Waterspout("ws://localhost/v1/ws", {
    WebSocket: Socket,
    minDelay: 0.01,
    maxDelay: 0.02,
    ...options,
  });
  const states = [];
  client.on("state", (event) => states.push(event));
  t.after(() => client.close());
  return { client, sockets, states };
}
