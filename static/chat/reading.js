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
