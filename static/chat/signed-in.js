/** What only who is signed in has: loaded for nobody else. @module */

export { Blocks } from "./blocks.js";
export { Memberships } from "./memberships.js";
export { Mentions, mentionsIn } from "./mentions.js";
export { Notices } from "./notices.js";
