// Models, with names for people, and the order in which letters are learned.
import { FieldError, make, spoken } from "./dom";
import { Model } from "./engine";
import { addTexts, languageOf, t } from "./texts";

const NAMES: Record<string, string> = { devanagari: "models.devanagari", mnist: "models.mnist" };

export const isDigit = (glyph: string): boolean => /^\p{Nd}$/u.test(glyph);

export function shortNameOf(model: Model): string {
  const own = NAMES[model.dataset];
  return own ? t(own) : model.dataset.replaceAll("_", " ");
}

export function nameOf(model: Model): string {
  const digits = model.classes.filter((one) => isDigit(one.glyph)).length, letters = model.classes.length - digits;
  const what = !letters ? "models.digits" : digits ? "models.both" : "models.letters";
  return `${shortNameOf(model)}, ${t(what, model.classes.length)}`;
}

// A choice among models; hidden with its label where there is only one.
export function modelSelect(id: string, models: Model[], chosen: string, name = nameOf): HTMLSelectElement {
  const select = make("select", { id, name: id });
  select.replaceChildren(...models.map((one) => {
    const option = make("option", { value: one.dataset, textContent: name(one), lang: languageOf(name(one)) });
    option.selected = one.dataset === chosen;
    return option;
  }));
  return select;
}

export const preferred = (models: Model[]): Model => models.find((one) => one.dataset === "devanagari") ?? models[0]!;

// Letters in the rows in which they are learned; what is in no row comes last.
const ROWS = ["अ आ इ ई उ ऊ ऋ ए ऐ ओ औ", "क ख ग घ ङ", "च छ ज झ ञ", "ट ठ ड ढ ण", "त थ द ध न", "प फ ब भ म", "य र ल व", "श ष स ह", "क्ष त्र ज्ञ",
  "० १ २ ३ ४ ५ ६ ७ ८ ९", "0 1 2 3 4 5 6 7 8 9"].map((row) => row.split(" "));

export function letterRows(model: Model): string[][] {
  const own = model.classes.map((one) => one.glyph), rows = ROWS.map((row) => row.filter((glyph) => own.includes(glyph)));
  const rest = own.filter((glyph) => !rows.flat().includes(glyph));
  const latin = rest.filter((glyph) => /^[A-Za-z]$/.test(glyph)).sort(), others = rest.filter((glyph) => !latin.includes(glyph));
  return [...rows, latin, others].filter((row) => row.length);
}

// A sentence on letters that are written differently in India and Nepal, where the model is known to write one form or both.
export function formsNote(model: Model): HTMLElement | null {
  const forms = Object.entries(model.letter_forms ?? {}).filter(([glyph]) => model.classes.some((one) => one.glyph === glyph));
  const letters = (form: string): string => forms.filter((one) => one[1] === form).map(([glyph]) => glyph).join(" ");
  const row = (lang: string, text: string): HTMLElement => make("span", { className: "forms", lang, textContent: text });
  const said: (Node | string)[] = [];
  for (const [form, other] of [["ne", "hi"], ["hi", "ne"]] as const) {
    const own = letters(form);
    if (own) said.push(t(`models.forms.${form}`), " ", row(form, own), t(`models.instead.${other}`), " ", row(other, own), ". ");
  }
  if (letters("both")) said.push(t("models.forms.both"), " ", row("hi", letters("both")), ".");
  return said.length ? make("p", { className: "quiet" }, ...said) : null;
}

// The value of a digit in either script; NaN for anything else.
const valueOf = (one: string): number => (/^[०-९]$/.test(one) ? one.charCodeAt(0) - 0x966 : /^[0-9]$/.test(one) ? Number(one) : NaN);

export const glyphsOf = (model: Model): string[] => model.classes.map((one) => one.glyph);

// A text with the digits of `own`, as the server writes it.
export function inOwnDigits(text: string, own: string[]): string {
  return text.replace(/[0-9०-९]/g, (one) => (own.includes(one) ? one : own.find((other) => valueOf(other) === valueOf(one)) ?? one));
}

// The glyphs of the text in a control, the longest that fit, without spaces; for others a FieldError says `refusal`.
export function split(model: Model, text: HTMLInputElement, refusal: string): string[] {
  const own = glyphsOf(model), longest = [...own].sort((a, b) => b.length - a.length), found: string[] = [], unknown = new Set<string>();
  for (let rest = inOwnDigits(text.value.normalize("NFC").trim(), own); rest; rest = rest.trimStart()) {
    const glyph = longest.find((one) => rest.startsWith(one.normalize("NFC"))), other = String.fromCodePoint(rest.codePointAt(0)!);
    if (glyph) found.push(glyph);
    else unknown.add(glyphName(other).textContent);
    rest = rest.slice((glyph?.normalize("NFC") ?? other).length);
  }
  if (unknown.size) throw new FieldError(text, t(refusal, [...unknown].join(", ")));
  return found;
}

export const glyphName = (text: string): HTMLElement => spoken(/^\p{Mark}/u.test(text) ? `◌${text}` : text);

addTexts("models", {
  devanagari: ["Devanagari", "देवनागरी"],
  mnist: ["Latin digits (MNIST)", "लैटिन अंक (MNIST)"],
  both: ["{0} letters and digits", "{0} अक्षर और अंक"],
  letters: ["{0} letters", "{0} अक्षर"],
  digits: ["{0} digits", "{0} अंक"],
  "forms.ne": ["Written as in Nepal:", "नेपाल में प्रचलित रूप:"],
  "forms.hi": ["Written as in India:", "भारत में प्रचलित रूप:"],
  "forms.both": ["In several forms:", "कई रूपों में:"],
  "instead.hi": ["; in India:", "; भारत में:"],
  "instead.ne": ["; in Nepal:", "; नेपाल में:"],
});
