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

let unsure; // whether the digits or the character of what was not read for sure were asked for

// What was not read for sure is shown all the same, with a button that takes it.
function doubtful(error, again) {
  unsure = again;
  const what = again ? "These may not be digits, or not clear ones." : "This may be no character, not a clear one, or several at once.";
  const remedy = `Write it ${again ? "with space between the digits" : "alone"} and larger, or take the likeliest:`;
  const take = make("button", { type: "submit", textContent: "Take it anyway", value: "force" });
  take.setAttribute("form", "read");
  byId("reading").replaceChildren(make("p", { textContent: `${what} ${remedy}` }), make("ul", { className: "readings" }, ...error.readings.map(reading)), take);
  return make("span", { textContent: "I am not sure what this shows." });
}

const read = task(byId("read-status"), [pad, chance], "Reading …", async (signal, again, force) => {
  const image = pictureOnPad(), model = byId("source").value, to = byId("target").value;
  const body = { model, image, ...(again && { to, seed: wholeNumber(chance, "The seed") }), ...(force && { force }) };
  const done = await ask(again ? "translate" : "recognise", body, { signal }).catch((error) => {
    if (!error.readings) throw error;
    return error;
  });
  if (done.readings) return doubtful(done, again);
  const shown = [make("ul", { className: "readings" }, ...(again ? done.digits : [done]).map(reading))];
  if (again) shown.push(make("h2", { textContent: `Written again in ${to}` }), make("div", { className: "generate" }, ...done.images.map((one) => captioned(one.png, one.glyph))));
  byId("reading").replaceChildren(...shown);
  return make("span", {}, "Read as ", glyph(again ? done.read : done.glyph), ` by the judge of ${model}.`);
});

byId("read").addEventListener("submit", (event) => {
  event.preventDefault();
  const force = event.submitter?.value === "force";
  read(force ? unsure : event.submitter?.value !== "recognise", force);
});
