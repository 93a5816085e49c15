// My rooms, of static/waterspout.js, against a scripted socket: what is counted from what the server tells all members.

import assert from "node:assert/strict";
import { test } from "node:test";
import { begin } from "./scripted-socket.mjs";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const row = (channel, count, unread, read) => ({
  channel, role: "member", read: `e:${read}`, head: `e:${count}`, count, unread, mentions: 0, newest: `e:${count}`, time: 1,
});

test("rows, activity, what was erased and what was read make the unread counts", async (t) => {
  const { client, sockets } = begin(t);
  const rooms = client.rooms();
  assert.equal(client.rooms(), rooms);
  const changes = [];
  rooms.on("change", (room) => changes.push(room?.channel ?? null));
  await pause(5);
  const [socket] = sockets;
  assert.equal(socket.sent.find((command) => command.type === "subscribe").channel, "$rooms");
  socket.push({ type: "rooms", rooms: [row("room:a", 5, 2, 3), row("room:b", 4, 0, 4)], more: true, start: true });
  assert.equal(rooms.ready, false);
  socket.push({ type: "rooms", rooms: [row("room:c", 0, 0, 0)], more: false });
  assert.equal(rooms.ready, true);
  assert.deepEqual(rooms.list().map((room) => room.channel), ["room:a", "room:b", "room:c"]);
  assert.equal(rooms.unread, 2);
  socket.push({ type: "activity", channel: "room:b", head: "e:6", count: 6, newest: "e:6" });
  assert.deepEqual(rooms.list().map((room) => room.channel), ["room:b", "room:a", "room:c"]);
  assert.equal(rooms.rooms.get("room:b").unread, 2);
  socket.push({ type: "activity", channel: "room:a", head: "e:7", count: 5, newest: "e:5", deleted: [2, 5] });
  assert.equal(rooms.rooms.get("room:a").unread, 1); // one of them had been read
  assert.equal(rooms.list()[0].channel, "room:b"); // what is erased moves no room up
  socket.push({ type: "read", channel: "room:b", user: "ann", cursor: "e:6", seen: 6 });
  socket.push({ type: "read", channel: "room:a", user: "ann", cursor: "e:4" });
  assert.equal(rooms.rooms.get("room:b").unread, 0);
  assert.equal(rooms.rooms.get("room:a").unread, 1);
  socket.push({ type: "room", channel: "room:c", role: null });
  socket.push({ type: "room", ...row("room:d", 9, 9, 0) });
  assert.deepEqual(rooms.list().map((room) => room.channel), ["room:d", "room:b", "room:a"]);
  assert.deepEqual(changes, [null, null, "room:b", "room:a", "room:b", "room:a", "room:c", "room:d"]);
  socket.drop(1006);
  await pause(60);
  const again = sockets[1].sent.find((command) => command.type === "subscribe");
  assert.equal(again.after, "e:0"); // as this server has replied: markers are no cursors of the view
  sockets[1].push({ type: "rooms", rooms: [row("room:a", 1, 1, 0)], more: false, start: true });
  assert.deepEqual([...rooms.rooms.keys()], ["room:a"]);
});

test("mentions of this user are counted, each once, until they are read", async (t) => {
  const { client, sockets } = begin(t);
  const rooms = client.rooms();
  await pause(5);
  const [socket] = sockets;
  client.session.user = "ann";
  const ann = { ...row("room:a", 5, 2, 3), mentions: 1 };
  socket.push({ type: "rooms", rooms: [ann], more: false, start: true });
  assert.equal(rooms.mentions, 1);
  const activity = { type: "activity", channel: "room:a", head: "e:9", count: 9, newest: "e:9" };
  socket.push({ ...activity, mentioned: { ann: [3, 6], "*": [6, 7, 9], bob: [8] }, by: { ann: [9] } });
  assert.equal(rooms.mentions, 3);
  assert.equal(rooms.unread, 6);
  socket.push({ type: "read", channel: "room:a", user: "ann", cursor: "e:8" });
  assert.equal(rooms.mentions, 3); // a row follows
  socket.push({ type: "read", channel: "room:a", user: "ann", cursor: "e:9", seen: 9, mentions: 0 });
  assert.equal(rooms.mentions, 0);
});

test("rooms that are muted are not counted but for mentions, and those that are pinned stand in front", async (t) => {
  const { client, sockets } = begin(t);
  const rooms = client.rooms();
  await pause(5);
  const all = [row("room:a", 5, 2, 3), { ...row("room:b", 4, 4, 0), mute: true, mentions: 1 }, { ...row("room:c", 1, 1, 0), pin: true }];
  sockets[0].push({ type: "rooms", rooms: all, more: false, start: true });
  assert.deepEqual(rooms.list().map((room) => room.channel), ["room:c", "room:a", "room:b"]);
  assert.deepEqual([rooms.unread, rooms.mentions], [3, 1]);
});

test("threads that are followed are asked for, count apart, and tell their timelines", async (t) => {
  const { client, sockets } = begin(t);
  const rooms = client.rooms();
  const thread = client.channel("room:a").timeline().thread(12);
  await pause(5);
  const [socket] = sockets;
  socket.push({ type: "rooms", rooms: [row("room:a", 5, 2, 3)], more: false, start: true });
  assert.deepEqual([thread.following, thread.unread, rooms.threads()], [null, null, []]);
  assert.equal(client.rooms({ threads: true }), rooms);
  client.rooms();
  client.rooms({ threads: true });
  const sent = () => socket.sent.filter(({ channel }) => channel === "$rooms");
  socket.reply(sent()[1], { channel: "$rooms" });
  await pause(5);
  assert.deepEqual(sent().map(({ type, threads }) => [type, threads]), [["subscribe", undefined], ["unsubscribe", undefined], ["subscribe", true]]);
  const name = "$thread:12:room:a";
  const followed = { ...row(name, 3, 1, 2), thread: { channel: "room:a", of: 12 } };
  const other = { ...row("$thread:3:room:b", 9, 4, 2), mute: true, mentions: 1, thread: { channel: "room:b", of: 3 } };
  let changes = 0;
  thread.on("change", () => changes++);
  socket.push({ type: "rooms", rooms: [other, row("room:a", 5, 2, 3), followed], more: false, start: true });
  assert.deepEqual(rooms.list().map((room) => room.channel), ["room:a"]);
  assert.deepEqual(rooms.threads().map((room) => room.channel), ["$thread:3:room:b", name]);
  assert.deepEqual(rooms.threads("room:a").map((room) => room.channel), [name]);
  assert.deepEqual([rooms.unread, rooms.mentions, rooms.threadUnread, rooms.threadMentions], [2, 0, 1, 1]);
  assert.deepEqual([thread.following, thread.unread], [true, 1]);
  await pause(5);
  const before = changes;
  socket.push({ type: "activity", channel: name, head: "e:4", count: 4, newest: "e:4" });
  assert.equal(thread.unread, 2);
  assert.equal(rooms.threads()[0].channel, name);
  await pause(5);
  assert.equal(changes, before + 1);
  thread.follow().catch(() => {});
  thread.markRead("e:4").catch(() => {});
  thread.unfollow().catch(() => {});
  await pause(5);
  assert.deepEqual(socket.sent.slice(-3).map(({ type, channel, cursor }) => [type, channel, cursor]), [
    ["join", name, undefined], ["leave", name, undefined], ["read", name, "e:4"],
  ]);
  socket.push({ type: "room", channel: name, role: null });
  assert.deepEqual([thread.following, thread.unread], [false, null]);
});

test("receipts are the channel's, and never its cursor", async (t) => {
  const { client, sockets } = begin(t);
  client.rooms();
  const channel = client.channel("room:a");
  const receipts = channel.receipts();
  await channel.subscribe();
  const [socket] = sockets;
  await pause(5);
  const ask = () => socket.sent.filter((command) => command.type === "members");
  socket.reply(ask()[0], { members: [{ user: "ann", role: "member", joined: 1, read: "e:3" }], more: true });
  await pause(5);
  assert.equal(ask()[1].after, "ann");
  socket.reply(ask()[1], { members: [{ user: "bob", role: "member", joined: 1, read: "e:1" }], more: false });
  await pause(5);
  assert.deepEqual(receipts.of(2), ["ann"]);
  const { cursor } = channel;
  socket.push({ type: "read", channel: "room:a", user: "bob", offset: 9 });
  assert.deepEqual([...receipts.users], [["ann", 3], ["bob", 9]]);
  assert.equal(channel.cursor, cursor);
});

test("a direct channel has one name, whoever asks for it", async (t) => {
  const { client, sockets } = begin(t);
  await pause(5);
  client.session.user = "jö, %";
  assert.equal(client.direct("dm", "bob").name, "dm:bob,jö%2C%20%25");
  client.session.user = "\u{1f600}";
  assert.equal(client.direct("dm", "\uffee").name, "dm:\uffee,\u{1f600}"); // as code points are
  client.block("bob").catch(() => {});
  client.blocked().catch(() => {});
  await pause(5);
  const sent = sockets[0].sent.slice(1).map(({ id: _, ...command }) => command);
  assert.deepEqual(sent, [{ type: "block", user: "bob", on: true }, { type: "blocks" }]);
});

test("of what is said to be read within two seconds the last is sent", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("room:a");
  await channel.subscribe();
  sockets[0].push({ type: "message", channel: "room:a", offset: 1, cursor: "e:1", data: 1 });
  const read = () => sockets[0].sent.filter((command) => command.type === "read");
  const first = channel.markRead();
  await pause(5);
  assert.deepEqual(read().map(({ cursor }) => cursor), ["e:1"]);
  sockets[0].reply(read()[0], { channel: "room:a", cursor: "e:1" });
  assert.equal((await first).cursor, "e:1");
  void channel.markRead("e:2").catch(() => {});
  void channel.markRead("e:3", { set: true }).catch(() => {});
  await pause(50);
  assert.equal(read().length, 1);
});

test("being a member is asked for as the protocol says", async (t) => {
  const { client, sockets } = begin(t);
  const channel = client.channel("room:a");
  await pause(5);
  channel.join().catch(() => {});
  channel.setMember("bob", "moderator").catch(() => {});
  channel.prefer({ mute: true }).catch(() => {});
  channel.memberships({ limit: 5 }).catch(() => {});
  channel.leave().catch(() => {});
  await pause(5);
  const sent = sockets[0].sent.slice(1).map(({ id: _, ...command }) => command);
  assert.deepEqual(sent, [
    { type: "join", channel: "room:a" },
    { type: "member", channel: "room:a", user: "bob", role: "moderator" },
    { type: "member", channel: "room:a", mute: true },
    { type: "members", channel: "room:a", limit: 5 },
    { type: "leave", channel: "room:a" },
  ]);
});
