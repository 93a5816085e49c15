/**
 * Whether a document matches a `where`, with the server's semantics: for transports on which the server does not select.
 *
 * @module
 */

/** @type {Record<string, (value: any, operand: any) => boolean>} */
const ORDER = {
  $gt: (value, operand) => value > operand,
  $gte: (value, operand) => value >= operand,
  $lt: (value, operand) => value < operand,
  $lte: (value, operand) => value <= operand,
};

/** @param {any} document @param {any} where @returns {boolean} */
export function matches(document, where) {
  return Object.entries(where).every(([path, wanted]) => {
    if (path === "$and") return wanted.every((/** @type {any} */ part) => matches(document, part));
    const conditions = wanted !== null && typeof wanted === "object" ? wanted : { $eq: wanted };
    const values = valuesAt(document, path.split("."));
    return Object.entries(conditions).every(([operator, operand]) => holds(values, operator, operand));
  });
}

/** @param {any[]} values @param {string} operator @param {any} operand */
function holds(values, operator, operand) {
  if (operator === "$ne") return !values.includes(operand);
  if (operator === "$in") return operand.some((/** @type {any} */ one) => values.includes(one));
  if (operator === "$eq") return values.includes(operand);
  // Only values of one type compare; null compares as equal to itself.
  return values.some(
    (value) =>
      typeof value === typeof operand && (value === null) === (operand === null) && ORDER[operator](value, operand),
  );
}

/** What a path leads to: of an array its elements; what is missing is null. @param {any} value @param {string[]} path @returns {any[]} */
function valuesAt(value, path) {
  if (!path.length) return Array.isArray(value) ? value : [value];
  if (Array.isArray(value)) {
    const objects = value.filter(
      (element) => element !== null && typeof element === "object" && !Array.isArray(element),
    );
    return objects.flatMap((element) => valuesAt(element, path));
  }
  const [name, ...rest] = path;
  const there = value !== null && typeof value === "object" && Object.hasOwn(value, name);
  return there ? valuesAt(value[name], rest) : [null];
}
