// The tab "Write": a text as lines in as many hands, or letter by letter.
import { ask } from "./api.js";
import { byId, captioned, FieldError, languageOf, make, picture, roving, task, wholeNumber } from "./dom.js";

const HEIGHT = 96; // of a line, pixels
const TYPES = { png: "image/png", zip: "application/zip" };
const form = byId("write"), model = byId("model"), text = byId("text"), count = byId("count"), seed = byId("seed"), status = byId("write-status");
let models = [];
let offered = ""; // the text that the page begins with
let shown, answer; // the request of what is shown, which is made again to save it, and its answer

const glyphs = () => models.find((one) => one.dataset === model.value).classes.map((one) => one.glyph);
const named = (one) => (/^\p{Mark}/u.test(one) ? `◌${one}` : one);
const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// The value of a digit in either script; NaN for anything else.
const valueOf = (one) => (/^[०-९]$/.test(one) ? one.charCodeAt(0) - 0x966 : /^[0-9]$/.test(one) ? Number(one) : NaN);

// A text with the digits of the model, as the server writes it.
function inOwnDigits(written) {
  const own = glyphs();
  return written.replace(/[0-9०-९]/g, (one) => (own.includes(one) ? one : own.find((other) => valueOf(other) === valueOf(one)) ?? one));
}

// The glyphs of a text, the longest that fit, without spaces.
function split(written) {
  const longest = glyphs().sort((a, b) => b.length - a.length), found = [], unknown = new Set();
  for (let rest = inOwnDigits(written.normalize("NFC").trim()); rest; rest = rest.trimStart()) {
    const glyph = longest.find((one) => rest.startsWith(one.normalize("NFC"))), other = String.fromCodePoint(rest.codePointAt(0));
    if (glyph) found.push(glyph);
    else unknown.add(named(other));
    rest = rest.slice((glyph?.normalize("NFC") ?? other).length);
  }
  if (unknown.size) throw new FieldError(text, `Letter by letter, the model writes only what is shown, not ${[...unknown].join(", ")}; write it as a line instead.`);
  return found;
}

function asked() {
  if (!text.value.trim()) throw new FieldError(text, "There is nothing to write; type or tap a text.");
  const n = wholeNumber(count, "How many"), common = { model: model.value, n, seed: wholeNumber(seed, "The seed") };
  if (byId("style").value === "letters") return ["generate", { ...common, labels: split(text.value) }];
  return ["compose", { ...common, text: text.value, height: HEIGHT }];
}

const write = task(status, [text, count, seed], "Writing …", async (signal) => {
  const request = asked(), [route, body] = request, lines = route === "compose";
  const done = await ask(route, body, { signal }), before = answer;
  const images = lines ? done.lines.map((one) => picture(one.png, done.text)) : done.images.map((one) => captioned(one.png, one.glyph));
  byId("written").replaceChildren(make("div", { className: route }, ...images));
  byId("save").hidden = false;
  shown = request;
  answer = JSON.stringify(done);
  if (answer === before) return "Written again, and the same: another seed gives another hand.";
  const seeds = lines && body.n > 1 ? `seeds ${body.seed} to ${body.seed + body.n - 1}` : `seed ${body.seed}`;
  const drawn = lines && done.drawn.length ? ` Drawn from a typeface, not learned: ${done.drawn.map(named).join(" ")}.` : "";
  return `Wrote ${plural(images.length, lines ? "line" : "letter")} with ${body.model}, ${seeds}.${drawn}`;
});

const save = task(status, [text], "Saving …", async (signal, kind) => {
  const [route, body] = shown, file = await ask(route, body, { accept: TYPES[kind], signal });
  const link = make("a", { href: URL.createObjectURL(file), download: `handwriting.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when the browser has it
  return `Saved ${link.download}.`;
});

function showLetters() {
  const buttons = glyphs().map((glyph, place) => make("button", { type: "button", textContent: glyph, lang: languageOf(glyph), tabIndex: place ? -1 : 0 }));
  byId("letters").replaceChildren(...buttons);
}

function showLanguage() {
  text.lang = languageOf(text.value);
}

// Another model begins with letters of its own, unless there is a text already.
function changeModel() {
  const untouched = text.value === offered;
  offered = glyphs().slice(0, 3).join("");
  if (untouched) text.value = offered;
  showLanguage();
  showLetters();
}

export function showModels(known) {
  models = known;
  changeModel();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
model.addEventListener("change", changeModel);
text.addEventListener("input", showLanguage);
byId("save").addEventListener("click", (event) => event.target.value && save(event.target.value));
byId("letters").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) return;
  text.setRangeText(event.target.textContent, text.selectionEnd, text.selectionEnd, "end"); // Tab selects all, which should stay
  showLanguage();
});
roving(byId("letters"));
