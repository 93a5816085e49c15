/**
 * Whether a document matches a `where`, with the server's semantics: for transports on which the server does not select.
 * tests/shared/where.json has cases that both must answer alike.
 *
 * @module
 */

/** @typedef {"null" | "boolean" | "number" | "string" | "other"} Kind What compares with what. */

/** Objects that stand for values JSON does not have; no path leads into them. */
const SPECIAL = new Set(
  ["oid", "date", "numberDecimal", "numberDouble", "binary", "regularExpression", "timestamp", "code"].map(
    (name) => `$${name}`,
  ),
);

/** @type {Record<string, (order: number) => boolean>} */
const OPERATORS = {
  $eq: (order) => order === 0,
  $gt: (order) => order > 0,
  $gte: (order) => order >= 0,
  $lt: (order) => order < 0,
  $lte: (order) => order <= 0,
};

/** @param {any} document @param {any} where @returns {boolean} */
export function matches(document, where) {
  return Object.entries(where).every(([path, wanted]) => {
    if (path === "$and") return wanted.every((/** @type {any} */ part) => matches(document, part));
    const conditions = isObject(wanted) ? wanted : { $eq: wanted };
    const values = valuesAt(document, path.split("."));
    return Object.entries(conditions).every(([operator, operand]) => holds(values, operator, operand));
  });
}

/** @param {any[]} values @param {string} operator @param {any} operand @returns {boolean} */
function holds(values, operator, operand) {
  if (operator === "$ne") return !holds(values, "$eq", operand);
  if (operator === "$in") return operand.some((/** @type {any} */ one) => holds(values, "$eq", one));
  return values.some((value) => {
    const order = compare(value, operand);
    return order !== undefined && OPERATORS[operator](order);
  });
}

/** What a path leads to: of an array its elements; what is missing is null. @param {any} value @param {string[]} path @returns {any[]} */
function valuesAt(value, path) {
  if (!path.length) return Array.isArray(value) ? value : [value];
  if (Array.isArray(value)) return value.filter(isObject).flatMap((element) => valuesAt(element, path));
  const [name, ...rest] = path;
  return isObject(value) && Object.hasOwn(value, name) ? valuesAt(value[name], rest) : [null];
}

/** Not an array, and no value that JSON does not have. @param {any} value */
function isObject(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
  const names = Object.keys(value);
  return !((names.length === 1 || names.length === 2) && SPECIAL.has(names[0]));
}

/** Below zero, zero or above; undefined: only values of one type compare. @param {any} value @param {any} operand */
function compare(value, operand) {
  const kind = kindOf(value);
  if (kind === "other" || kind !== kindOf(operand)) return undefined;
  if (kind === "null") return 0;
  if (kind === "string") return compareTexts(value, operand);
  if (kind === "boolean") return Number(value) - Number(operand);
  if (typeof value === "number") return value < operand ? -1 : Number(value > operand);
  if (value.$numberDouble) return value.$numberDouble === "Infinity" ? 1 : -1;
  return compareDecimals(parseDecimal(value.$numberDecimal), decimalOf(operand));
}

/** NaN compares with nothing that can be asked for. @param {any} value @returns {Kind} */
function kindOf(value) {
  if (value === null) return "null";
  const type = typeof value;
  if (type === "boolean" || type === "number" || type === "string") return type;
  if (type !== "object" || Object.keys(value).length !== 1) return "other";
  if (value.$numberDouble === "Infinity" || value.$numberDouble === "-Infinity") return "number";
  return typeof value.$numberDecimal === "string" && parseDecimal(value.$numberDecimal) ? "number" : "other";
}

/** By code points, as UTF-8 sorts; JavaScript compares UTF-16. @param {string} one @param {string} other */
function compareTexts(one, other) {
  const length = Math.min(one.length, other.length);
  for (let at = 0; at < length; at++) {
    const [a, b] = [one.charCodeAt(at), other.charCodeAt(at)];
    // Surrogates stand for what lies behind all other characters.
    if (a !== b) return isSurrogate(a) === isSurrogate(b) ? a - b : isSurrogate(a) ? 1 : -1;
  }
  return one.length - other.length;
}

/** @param {number} unit */
function isSurrogate(unit) {
  return unit >= 0xd800 && unit <= 0xdfff;
}

/** Sign, digits without zeros in front, and the place behind the first digit. @typedef {{ sign: number, digits: string, place: number }} Decimal */

/** @param {string} text @returns {Decimal | undefined} */
function parseDecimal(text) {
  if (/^[+-]?inf(inity)?$/i.test(text)) return { sign: text[0] === "-" ? -1 : 1, digits: "1", place: Infinity };
  const parts = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text);
  if (!parts || !(parts[2] + parts[3])) return undefined;
  const digits = (parts[2] + parts[3]).replace(/^0+/, "");
  if (!digits) return { sign: 0, digits, place: 0 };
  return { sign: parts[1] === "-" ? -1 : 1, digits, place: digits.length - parts[3].length + Number(parts[4] ?? 0) };
}

/** With more digits than a decimal has, so that nothing rounded is equal to one. @param {number} number */
function decimalOf(number) {
  return /** @type {Decimal} */ (parseDecimal(Number.isSafeInteger(number) ? String(number) : number.toPrecision(100)));
}

/** @param {Decimal | undefined} one @param {Decimal} other */
function compareDecimals(one, other) {
  if (!one || one.sign !== other.sign) return (one?.sign ?? 0) - other.sign;
  if (one.place !== other.place) return one.sign * (one.place > other.place ? 1 : -1);
  const length = Math.max(one.digits.length, other.digits.length);
  const [a, b] = [one.digits.padEnd(length, "0"), other.digits.padEnd(length, "0")];
  return one.sign * (a < b ? -1 : Number(a > b));
}
