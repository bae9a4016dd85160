// A text as what a model has learned and what a typeface adds to it: handwriting/syllables.py in small. Consonants without a vowel
// between them stand side by side with a halant each, unless their conjunct is a class of the model.
import { GlyphClass } from "../engine";

const BEFORE = "ि", AFTER = "ाीोौॉः", ABOVE = "ेैॅंँ", BELOW = "ुूृॄ़्";
const SIGNS = new Set(BEFORE + AFTER + ABOVE + BELOW);
const LETTER = /^[\u0915-\u0939\u0958-\u095f]/; // what signs go with
const ALONE = /^[अआइईउऊऋॠऍएऐऑओऔळॐऽ][ंँः]*/u; // no dataset has these
const MARK = /^[!"#$%&'()*+,\-./:;<=>?@[\\\]^_`{|}~।॥॰₹‘’“”–—…×÷]/u;

export type Place = "before" | "after" | "above" | "below";
export interface Sign { text: string; place: Place }

// A letter of the model with its signs; or with no label a letter or mark that the typeface draws; null is a space.
export interface Piece { text: string; label?: number; signs: Sign[] }

const valueOf = (one: string): number => (/^[०-९]$/.test(one) ? one.charCodeAt(0) - 0x966 : /^[0-9]$/.test(one) ? Number(one) : NaN);

// Which class is meant by a glyph, a class name, a digit of any of both scripts or a number.
export function labelOf(wanted: string, classes: GlyphClass[]): number | undefined {
  const text = wanted.normalize("NFC"), find = (is: (one: GlyphClass) => boolean): number | undefined => classes.find(is)?.label;
  return find((one) => one.glyph.normalize("NFC") === text) ?? find((one) => one.name === text)
    ?? find((one) => valueOf(one.glyph) === valueOf(text)) ?? find((one) => String(one.label) === text);
}

// In NFC, with single spaces, and with the digits of the model.
export function transcript(text: string, classes: GlyphClass[]): string {
  const own = new Set(classes.map((one) => one.glyph));
  const digit = (one: string): string => (own.has(one) ? one : classes.find((other) => valueOf(other.glyph) === valueOf(one))?.glyph ?? one);
  return text.normalize("NFC").trim().replace(/\s+/gu, " ").replace(/[0-9०-९]/gu, digit);
}

// The pieces of a transcript, and what of it can be written in no way.
export function pieces(text: string, classes: GlyphClass[]): { pieces: (Piece | null)[]; unknown: string[] } {
  const learned = classes.map(({ glyph, label }) => ({ glyph: glyph.normalize("NFC"), label })).sort((a, b) => b.glyph.length - a.glyph.length);
  const hasLetters = learned.some(({ glyph }) => LETTER.test(glyph)), found: (Piece | null)[] = [], unknown = new Set<string>();
  for (let rest = text; rest; ) {
    const known = learned.find(({ glyph }) => rest.startsWith(glyph)), drawn = known ? undefined : ((hasLetters && ALONE.exec(rest)) || MARK.exec(rest))?.[0];
    const taken = known?.glyph ?? drawn ?? String.fromCodePoint(rest.codePointAt(0)!);
    rest = rest.slice(taken.length);
    if (known) {
      const signs: Sign[] = [];
      while (LETTER.test(taken) && (SIGNS.has(rest[0]!) || /^[\u200c\u200d]/.test(rest))) {
        const text = rest[0]!, place = text === BEFORE ? "before" : AFTER.includes(text) ? "after" : ABOVE.includes(text) ? "above" : "below";
        if (SIGNS.has(text)) signs.push({ text, place });
        rest = rest.slice(1);
      }
      found.push({ text: taken, label: known.label, signs });
    } else if (drawn) found.push({ text: drawn, signs: [] });
    else if (taken === " ") found.push(null);
    else unknown.add(taken);
  }
  return { pieces: found, unknown: [...unknown] };
}

// What of it the typeface draws, each once.
export const drawnOf = (all: (Piece | null)[]): string[] =>
  [...new Set(all.flatMap((piece) => (piece ? (piece.label === undefined ? [piece.text] : piece.signs.map((sign) => sign.text)) : [])))];

// Whether a letter has its stem at the right, in the middle or not at all.
export function stemOf(glyph: string): "right" | "middle" | "none" {
  const last = glyph.replace(/्र$/u, "").at(-1)!;
  return "खगघचजझञणतथधनपबभमयलवशषस".includes(last) ? "right" : "कफ".includes(last) ? "middle" : "none";
}

export const hasHeadLine = (glyph: string): boolean => LETTER.test(glyph);
export const opensLate = (glyph: string): boolean => "थधभश".includes(glyph); // their head line begins in the middle
