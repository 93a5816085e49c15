/** What concerns the members of channels, over plain HTTP. @module */

import { claims, segment } from "./requests.js";

/** @typedef {import("./requests.js").Requests} Requests */

const PAGE = 100;

/**
 * The reply to such a command; undefined for any other.
 *
 * @param {Requests} requests @param {string} type @param {any} fields @returns {Promise<any> | undefined}
 */
export function roomCommand(requests, type, fields) {
  const { channel, user = me(requests), role } = fields;
  const path = channel === undefined ? "" : `/v1/channels/${segment("channel", channel)}`;
  const member = () => `${path}/members/${segment("user", user)}`;
  switch (type) {
    case "join":
      return requests.json("POST", `${path}/join`, { body: {} });
    case "leave":
      return requests.json("DELETE", member()).then(() => ({ channel, user, role: null }));
    case "member": {
      const { mute, pin } = fields;
      if (role === null) return requests.json("DELETE", member()).then(() => ({ channel, user, role }));
      if (role === undefined) return requests.json("PATCH", member(), { body: { mute, pin } });
      return requests.json("PUT", member(), { body: { role } });
    }
    case "members":
      return requests.json("GET", `${path}/members`, { query: { after: fields.after, limit: fields.limit } });
    case "read":
      return requests.json("POST", `${path}/read`, { body: { cursor: fields.cursor, set: fields.set } });
    case "block": {
      const blocked = fields.on !== false;
      const one = `/v1/blocks/${segment("user", user)}`;
      return requests.json(blocked ? "PUT" : "DELETE", one).then(() => ({ user, blocked }));
    }
    case "blocks":
      return requests.json("GET", "/v1/blocks");
    default:
      return undefined;
  }
}

/** All of my rooms, as the pushes that a subscription to `$rooms` begins with.
 *
 * @param {Requests} requests @param {boolean} [threads] */
export async function myRooms(requests, threads) {
  /** @type {any[]} */
  const pushes = [];
  let page;
  do {
    const after = page?.rooms.at(-1)?.channel;
    page = await requests.json("GET", "/v1/rooms", { query: { after, limit: PAGE, threads } });
    pushes.push({ type: "rooms", channel: "$rooms", rooms: page.rooms, more: page.more, start: !pushes.length });
  } while (page.more);
  return pushes;
}

/** Who the token says we are. @param {Requests} requests @returns {any} */
export const me = (requests) => claims(requests.token).sub ?? null;
