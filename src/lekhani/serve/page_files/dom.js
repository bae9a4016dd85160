// Elements, forms and what they say. Texts become text nodes, never markup.
import { Refusal } from "./api.js";

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const languageOf = (text) => (/\p{Script=Devanagari}/u.test(text) ? "hi" : "en");

export const picture = (png, text) => make("img", { src: `data:image/png;base64,${png}`, alt: text, lang: languageOf(text) });

export const captioned = (png, text) => make("figure", {}, picture(png, ""), make("figcaption", { textContent: text, lang: languageOf(text) }));

// A sentence at a field; none takes it away.
export function complain(field, sentence = "") {
  byId(`${field.id}-error`).textContent = sentence;
  field.ariaInvalid = String(sentence !== "");
}

// The whole number in a field; otherwise the field says so and gets the focus.
export function wholeNumber(field, name) {
  const value = field.valueAsNumber, least = Number(field.min), most = Number(field.max || Number.MAX_SAFE_INTEGER);
  if (Number.isSafeInteger(value) && least <= value && value <= most) return value;
  field.focus();
  throw new FieldError(field, `${name} is a whole number from ${least} to ${most}.`);
}

export class FieldError extends Refusal {
  constructor(field, sentence) {
    super(sentence);
    this.field = field;
  }
}

// A function that runs `work(signal, ...)` and shows what it returns, a text or a node, as `status`, or its error at a field.
// A new run ends the one before.
export function task(status, fields, beginning, work) {
  let current;
  return async (...given) => {
    current?.abort();
    const { signal } = (current = new AbortController());
    for (const field of fields) complain(field);
    status.textContent = beginning;
    try {
      status.replaceChildren(await work(signal, ...given));
    } catch (error) {
      if (signal.aborted) return;
      status.textContent = "";
      if (!(error instanceof Refusal)) throw error;
      complain(error.field ?? fields[0], error.message);
    }
  };
}

// One Tab stop for many buttons; arrow keys, Home and End lead from one to the next.
export function roving(container) {
  const stops = () => [...container.children];
  function moveTo(button) {
    for (const one of stops()) one.tabIndex = one === button ? 0 : -1;
  }
  container.addEventListener("focusin", (event) => moveTo(event.target));
  container.addEventListener("keydown", (event) => {
    const buttons = stops(), place = buttons.indexOf(event.target);
    const columns = buttons.filter((one) => one.offsetTop === buttons[0].offsetTop).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: buttons.length - 1 - place };
    if (!(event.key in steps)) return;
    event.preventDefault();
    buttons[place + steps[event.key]]?.focus();
  });
}
