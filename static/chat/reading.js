/** What one has read: who sees the end of a room or a thread has read it. @module */

/** @typedef {import("./chat.js").Page} Page */

/** The room that is shown. @param {Page} page @param {boolean} atEnd  its newest message is seen */
export function noteRead(page, atEnd) {
  const { room } = page;
  const row = page.list.of(room.channel.name);
  if (!row?.unread || room.kept || !page.sees(room) || room.channel.state !== "live") return;
  room.draw(row.read);
  if (atEnd) room.channel.markRead().catch(() => {}); // it is said again with the next message
}

/** The thread that stands beside it, if one follows that. @param {Page} page */
export function noteReadThread(page) {
  const { thread } = page.beside;
  if (!thread) return;
  const { room, transcript } = thread;
  const row = page.list.of(room.channel.name);
  thread.follows(row !== null);
  if (row?.unread && transcript.atEnd && page.sees(room) && room.channel.state === "live") room.channel.markRead().catch(() => {});
}

/** How many replies are new, as it stands below the messages that they answer. */
export class NewReplies {
  #list;
  /** What is shown, by thread. @type {Map<string, number>} */
  #shown = new Map();

  /** @param {import("./roomlist.js").RoomList} list */
  constructor(list) {
    this.#list = list;
  }

  /** @param {import("./room.js").Room} room @param {import("./transcript.js").Message} message */
  of(room, { offset }) {
    return this.#list.threads().find((row) => row.of === offset && row.parent === room.channel.name)?.unread ?? 0;
  }

  /** Show it where it has changed. @param {Page} page */
  show(page) {
    const rows = this.#list.threads();
    const now = new Map(rows.map(({ channel, unread }) => [channel, unread]));
    const changed = [...new Set([...now.keys(), ...this.#shown.keys()])].filter((channel) => (now.get(channel) ?? 0) !== (this.#shown.get(channel) ?? 0));
    this.#shown = now;
    for (const channel of changed) {
      const [, of, parent] = /^\$thread:(\d+):(.*)$/.exec(channel) ?? [];
      const room = [...page.rooms.values()].find((one) => one.channel.name === parent);
      const message = room?.message(Number(of));
      if (room && message) page.replace(room, message);
    }
  }
}
