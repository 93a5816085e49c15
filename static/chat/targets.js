/** What there is to jump to. @module */

import { channelOf, cleanRoom, nameOf } from "./words.js";

/** @typedef {import("./palette.js").Target} Target */

/**
 * @param {import("./chat.js").Page} page @param {import("./beside.js").Beside} beside @param {string} words  as typed
 * @returns {Target[]}
 */
export function targetsFor(page, beside, words) {
  const { room, list, people, me } = page;
  const rooms = list.all().filter(({ name }) => name !== room.name);
  const busy = [...rooms].sort((one, other) => Number(other.unread > 0) - Number(one.unread > 0));
  const talks = new Set(rooms.filter(({ direct }) => direct).map(({ title }) => title));
  const { talk } = beside;
  const others = talk ? people.names.filter((user) => !talks.has(user)) : [];
  /** @type {Target[]} */
  const targets = [
    ...busy.map(({ name, title, direct, unread }) => ({
      group: direct ? "People" : "Rooms",
      title,
      ...(direct ? { face: title } : {}),
      unread,
      go: () => page.go(name),
    })),
    ...others.map((user) => ({ group: "People", title: user, face: user, go: () => talk?.(user) })),
    ...list.threads().map((row) => ({
      group: "Threads",
      title: `Thread in ${nameOf(row.room, me)}`,
      icon: /** @type {const} */ ("reply"),
      unread: row.unread,
      go: () => void beside.openThread(row),
    })),
    ...waysOf(page, beside),
  ];
  if (words && room.searchable) {
    const go = () => void beside.open("search", words);
    targets.push({ group: "Search", title: `“${words}” in ${nameOf(room.name, me)}`, icon: "search", always: true, go });
  }
  const typed = list.roomOfName(words);
  if (cleanRoom(words) && !/\s/.test(words) && ![room.name, ...rooms.map(({ name }) => name)].includes(typed))
    targets.push({ group: "Another room", title: `#${words.replace(/^#+/, "")}`, hint: channelOf(typed), always: true, go: () => page.go(typed) });
  return targets;
}

/** What else the page has, as far as it is of use here. @param {import("./chat.js").Page} page @param {import("./beside.js").Beside} beside @returns {Target[]} */
function waysOf(page, beside) {
  const { room, me } = page;
  const name = nameOf(room.name, me);
  /** @type {[import("./beside.js").Kind, string, import("./parts.js").Icon, boolean][]} */
  const ways = [
    ["search", `Search ${name}`, "search", room.searchable],
    ["pins", `Pinned in ${name}`, "pin", room.pinning],
    ["members", `Members of ${name}`, "people", room.membered],
    ["threads", "Threads", "reply", me !== null],
    ["preferences", "Preferences", "settings", true],
  ];
  return ways.filter(([, , , there]) => there).map(([kind, title, icon]) => ({ group: "Actions", title, icon, go: () => void beside.open(kind) }));
}
