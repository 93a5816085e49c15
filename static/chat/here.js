/** Who is in a room just now, and who types. @module */

import { $, element } from "../page.js";
import { cleanName, some } from "./words.js";

/** @typedef {import("./room.js").Room} Room */

/** @param {Room} room */
export function showPresent(room) {
  const { users, count, guests } = room.channel.members();
  const here = count + guests;
  $("present").hidden = here === 0;
  $("present").querySelector("b").textContent = String(here);
  const names = [...users.keys()].map((user) => cleanName(user)).sort();
  if (count > names.length) names.push(some(count - names.length, "user")); // of many the names are not told
  if (guests) names.push(some(guests, "guest"));
  $("people").replaceChildren(...names.map((name) => element("li", "", name)));
}

/** @param {Room} room */
export function showTyping(room) {
  const names = room.typing.names();
  const [first, second] = names;
  const words =
    names.length === 0
      ? ""
      : names.length === 1
        ? `${first} is typing`
        : names.length === 2
          ? `${first} and ${second} are typing`
          : `${names.length} people are typing`;
  $("typing").classList.toggle("shown", words !== "");
  const said = $("typing").querySelector("span");
  if (words && said.textContent !== words) said.textContent = words;
}
