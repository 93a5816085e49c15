/** One's own account: the password, the address, where one is signed in; and what links in mails lead to. @module */

import { $, button, element } from "../page.js";
import { enter } from "./account.js";
import { browser, said } from "./dialog.js";
import { create, usable } from "./passkeys.js";
import { call } from "./session.js";

const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// The token leaves the address bar at once, so that nobody finds it in the history.
const [kind, secret] = location.hash.slice(1).split("=", 2);
if (secret) history.replaceState(null, "", location.pathname);
const token = decodeURIComponent(secret ?? "");

/** @param {string} words */
const tell = (words) => ($("told").textContent = words);

/** What a form does, with what went wrong said in it. @param {HTMLFormElement} form @param {() => Promise<void>} work */
function onSubmit(form, work) {
  const problem = /** @type {HTMLElement} */ (form.querySelector(".problem"));
  const button = /** @type {HTMLButtonElement} */ (form.querySelector(".primary"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    tell("");
    button.disabled = true;
    try {
      await work();
      form.reset();
    } catch (/** @type {any} */ error) {
      problem.textContent = said(error);
    } finally {
      button.disabled = false;
    }
  });
}

async function verify() {
  try {
    const { email } = await call("/verify", { token });
    tell(`${email} is verified.`);
  } catch (/** @type {any} */ error) {
    tell(said(error));
  }
}

onSubmit($("reset").querySelector("form"), async () => {
  await call("/reset", { token, password: $("reset-password").value });
  $("reset").hidden = true;
  tell("The new password is set. Sign in with it.");
  await begin();
});

async function begin() {
  const account = await enter();
  document.body.dataset.state = "open";
  if (!account.on) return tell("There are no accounts on this server.");
  if (!account.user) return void account.signIn();
  if (kind === "reset") tell("");

  /** @param {any} own */
  const show = ({ user, roles, email, verified, password }) => {
    $("who").textContent = roles.length ? `${user}, ${roles.join(", ")}` : user;
    $("password").hidden = $("email-password").parentElement.hidden = !password;
    $("no-password").hidden = password;
    $("passkey-password").disabled = $("passkey-password").parentElement.hidden = !password;
    $("email-card").hidden = !account.mail && !email;
    $("email-now").textContent = !email
      ? "None. With one, a forgotten password can be reset."
      : verified
        ? `${email}, verified.`
        : `${email}, not verified yet: a link was mailed to it. Until then it is of no use.`;
    $("address").value = $("address").defaultValue = email ?? "";
    for (const name of document.querySelectorAll("[autocomplete=username]")) name.setAttribute("value", user);
  };

  const showSessions = async () => {
    const { sessions } = await account.call("/sessions");
    $("sessions").replaceChildren(...sessions.map(row));
  };

  /** @param {any} session */
  const row = ({ session, agent, address, used, way, current }) => {
    const title = element("b", "", current ? "This one" : browser(agent));
    const more = [way === "password" ? "" : `by ${way}`, address, used ? `used ${when.format(used)}` : ""];
    const words = element("span", "", title, element("small", "", more.filter(Boolean).join(" · ")));
    if (current) return element("li", "", words);
    const button = ending("Sign out", `${browser(agent)}, ${address}`, `/sessions/${session}`, "Signed out there.", "sessions-title");
    return element("li", "", words, button);
  };

  const showPasskeys = async () => {
    if (!usable(account.passkeys)) return;
    const { passkeys } = await account.call("/passkeys");
    $("passkey-list").replaceChildren(...passkeys.map(passkeyRow));
    $("passkeys").hidden = false;
  };

  /** @param {any} passkey */
  const passkeyRow = ({ passkey, name, created, used, synced }) => {
    const times = [`added ${when.format(created)}`, used ? `used ${when.format(used)}` : "not used yet", synced ? "on all your devices" : ""];
    const words = element("span", "", element("b", "", name), element("small", "", times.filter(Boolean).join(" · ")));
    return element("li", "", words, ending("Remove", name, `/passkeys/${passkey}`, `${name} is removed.`, "passkeys-title"));
  };

  /** The button of a row: what it tells of ends. @param {string} verb @param {string} what @param {string} path @param {string} told @param {string} title */
  const ending = (verb, what, path, told, title) => {
    const made = button("quiet-button", verb);
    made.ariaLabel = `${verb} ${what}`;
    made.addEventListener("click", async () => {
      try {
        await account.call(path, undefined, "DELETE");
        tell(told);
      } catch (/** @type {any} */ error) {
        tell(said(error));
      }
      await Promise.all([showSessions(), showPasskeys()]);
      $(title).focus();
    });
    return made;
  };

  /** What a password proves, or without one a sign-in of just now. @template T @param {Promise<T>} asked */
  const proving = (asked) =>
    asked.catch((error) => {
      if (/^sign in again/.test(error.message)) void account.signIn("To change this, sign in once more.");
      throw error;
    });

  onSubmit($("password"), async () => {
    account.renew(await account.call("/password", { old: $("old").value, password: $("new").value }));
    tell("The password is changed. All other sessions have ended.");
    await showSessions();
  });
  onSubmit($("email"), async () => {
    const address = $("address").value.trim() || null;
    const own = await proving(account.call("/email", { email: address, password: $("email-password").value }));
    show(own);
    const sent = address && !(own.verified && own.email === address);
    tell(sent ? `A link is on its way to ${address}. It is good for a day.` : "Saved.");
  });
  onSubmit($("passkey"), async () => {
    const question = await proving(account.call("/passkey/new", { password: $("passkey-password").value }));
    const name = $("passkey-name").value;
    await account.call("/passkeys", { name, ...(await create(question)) });
    tell(`${name} is added: sign in with it from now on.`);
    await showPasskeys();
  });
  $("passkey-name").value = $("passkey-name").defaultValue = browser(navigator.userAgent);
  $("everywhere").addEventListener("click", async () => {
    try {
      await account.call("/sessions", undefined, "DELETE");
      await account.signOut();
    } catch (/** @type {any} */ error) {
      tell(said(error));
    }
  });

  try {
    show(await account.call("/me"));
    await Promise.all([showSessions(), showPasskeys()]);
    $("own").hidden = false;
  } catch (/** @type {any} */ error) {
    tell(said(error));
  }
}

if (kind === "verify" && token) void verify().then(begin);
else if (kind === "reset" && token) {
  document.body.dataset.state = "open";
  $("reset").hidden = false;
  $("reset-password").focus();
} else void begin();
