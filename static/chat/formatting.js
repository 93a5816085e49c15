/** Marks around what is written: by keys in any field, and by the buttons below the message field. @module */

/** Key → what stands around the words. With Ctrl, or ⌘. */
const MARKS = new Map([
  ["b", "*"],
  ["i", "_"],
  ["e", "`"],
]);

/** @param {HTMLTextAreaElement} field */
export function formatByKeys(field) {
  field.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.isComposing) return;
    const mark = event.shiftKey ? (event.key.toLowerCase() === "x" ? "~" : undefined) : MARKS.get(event.key);
    if (!mark) return;
    event.preventDefault();
    surround(field, mark);
  });
}

/** What is chosen, with the mark around it, or without it if that is there already. @param {HTMLTextAreaElement} field @param {string} mark */
export function surround(field, mark) {
  const { value, selectionStart: from, selectionEnd: to } = field;
  const { length } = mark;
  if (value.slice(from - length, from) === mark && value.slice(to, to + length) === mark) {
    field.setRangeText(value.slice(from, to), from - length, to + length, "select");
  } else {
    field.setRangeText(`${mark}${value.slice(from, to)}${mark}`, from, to);
    field.setSelectionRange(from + length, to + length);
  }
  changed(field);
}

/** A block of code of what is chosen, on lines of its own. @param {HTMLTextAreaElement} field */
export function surroundBlock(field) {
  const { value, selectionStart: from, selectionEnd: to } = field;
  const before = from === 0 || value[from - 1] === "\n" ? "" : "\n";
  field.setRangeText(`${before}\`\`\`\n${value.slice(from, to)}\n\`\`\``, from, to);
  field.setSelectionRange(from + before.length + 4, to + before.length + 4);
  changed(field);
}

/** In the place of what is chosen. @param {HTMLTextAreaElement} field @param {string} text */
export function insert(field, text) {
  field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  changed(field);
}

/** @param {HTMLTextAreaElement} field */
function changed(field) {
  field.focus();
  field.dispatchEvent(new Event("input"));
}

/** The buttons: one stop for Tab, from one to the next by the arrows.
 *
 * @param {HTMLElement} bar @param {HTMLTextAreaElement} field @param {(button: HTMLElement) => void} pick  an emoji */
export function formatByButtons(bar, field, pick) {
  const buttons = [...bar.querySelectorAll("button")];
  for (const [place, one] of buttons.entries()) {
    one.tabIndex = place ? -1 : 0;
    one.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps what is chosen
    one.addEventListener("click", () => {
      const { mark, act } = one.dataset;
      if (mark) surround(field, mark);
      else if (act === "block") surroundBlock(field);
      else if (act === "call") insert(field, /(^|\s)$/.test(field.value.slice(0, field.selectionStart)) ? "@" : " @");
      else pick(one);
    });
  }
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    const next = buttons[(at + step + buttons.length) % buttons.length];
    for (const one of buttons) one.tabIndex = one === next ? 0 : -1;
    next.focus();
  });
}
