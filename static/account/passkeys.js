/** Passkeys, of the browser or of a device beside it: JSON of the server there, and back. @module */

import { base64url } from "./session.js";

/** @typedef {{state: string, options: any}} Question */

/** What went wrong here, before the server was told anything. */
class NotDone extends Error {
  code = "not_done";
}

const WHY = new Map([
  ["NotAllowedError", "It was cancelled, or has taken too long"],
  ["AbortError", "It was cancelled, or has taken too long"],
  ["InvalidStateError", "This device has a passkey of this account already"],
  ["SecurityError", "Passkeys of this server are not for this address"],
]);

/** Whether this page can use the passkeys of a domain. @param {string | null} domain */
export const usable = (domain) =>
  domain !== null && "PublicKeyCredential" in window && `.${location.hostname}`.endsWith(`.${domain}`);

/** @param {string} text */
const bytes = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));

/** @param {Promise<Credential | null>} asked */
async function done(asked) {
  try {
    return /** @type {any} */ (await asked);
  } catch (/** @type {any} */ error) {
    throw new NotDone(WHY.get(error.name) ?? "This browser cannot do it");
  }
}

/** @param {any} credential @param {Record<string, any>} response */
const shown = ({ id, rawId, type }, response) => ({ id, rawId: base64url(rawId), type, response });

/** A new one, for the server to know. @param {Question} question */
export async function create({ state, options }) {
  const user = { ...options.user, id: bytes(options.user.id) };
  const known = options.excludeCredentials?.map((/** @type {any} */ one) => ({ ...one, id: bytes(one.id) }));
  const publicKey = { ...options, challenge: bytes(options.challenge), user, excludeCredentials: known };
  const made = await done(navigator.credentials.create({ publicKey }));
  const credential = shown(made, {
    clientDataJSON: base64url(made.response.clientDataJSON),
    attestationObject: base64url(made.response.attestationObject),
    transports: made.response.getTransports?.() ?? [],
  });
  return { state, credential };
}

/** One that the device has for this server. @param {Question} question */
export async function find({ state, options }) {
  const publicKey = { ...options, challenge: bytes(options.challenge) };
  const found = await done(navigator.credentials.get({ publicKey }));
  const credential = shown(found, {
    clientDataJSON: base64url(found.response.clientDataJSON),
    authenticatorData: base64url(found.response.authenticatorData),
    signature: base64url(found.response.signature),
    userHandle: base64url(found.response.userHandle ?? new ArrayBuffer(0)),
  });
  return { state, credential };
}
