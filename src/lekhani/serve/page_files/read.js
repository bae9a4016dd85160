// The tab "Read and write again": what was drawn, as a judge reads it, and written again.
import { ask } from "./api.js";
import { byId, captioned, languageOf, make, task, wholeNumber } from "./dom.js";
import { pad, pictureOnPad } from "./pad.js";

const chance = byId("chance");
const glyph = (text) => make("b", { textContent: text, lang: languageOf(text) });

// A guess and what else it may be, each with its confidence as a bar.
function reading(found) {
  const guesses = [found, ...found.alternatives].map((guess) =>
    make("span", { className: "guess" }, glyph(guess.glyph),
      make("meter", { value: guess.confidence, ariaLabel: `Confidence in ${guess.glyph}` }), ` ${(100 * guess.confidence).toFixed(1)}%`));
  return make("li", {}, ...guesses);
}

const read = task(byId("read-status"), [pad, chance], "Reading …", async (signal, again) => {
  const image = pictureOnPad(), model = byId("source").value, to = byId("target").value;
  const body = again ? { model, to, image, seed: wholeNumber(chance, "The seed") } : { model, image };
  const done = await ask(again ? "translate" : "recognise", body, { signal });
  const shown = [make("ul", { className: "readings" }, ...(again ? done.digits : [done]).map(reading))];
  if (again) shown.push(make("h2", { textContent: `Written again in ${to}` }), make("div", { className: "generate" }, ...done.images.map((one) => captioned(one.png, one.glyph))));
  byId("reading").replaceChildren(...shown);
  return make("span", {}, "Read as ", glyph(again ? done.read : done.glyph), ` by the judge of ${model}.`);
});

byId("read").addEventListener("submit", (event) => {
  event.preventDefault();
  read(event.submitter?.value !== "recognise");
});
