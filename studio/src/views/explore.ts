// Explore: between the noises of two seeds, around one of them, and one noise across all letters.
import { FieldError, labelled, make, picture, roving, spoken, task, wholeNumber } from "../dom";
import { Glyph, Model, Point } from "../engine";
import { alone, blend, MAX_SEED, Mix, mixText, nextSeed, parseMix, towards } from "../mixes";
import { letterRows, modelSelect, preferred } from "../models";
import { addTexts, languageOf, t } from "../texts";
import { Context, View } from "../view";

const STEP = 2.5; // of the walk, percent: every step is drawn at once, and looked through here
const STRIP_STEP = 10;
const REACH = 2; // neighbours to each side of the middle
const ARRIVED = 0.6; // a direction whose seed has this much weight in the middle leads to little that is new
const PAUSE = 250; // milliseconds that a slider rests before its pictures are asked for

interface State {
  a: number;
  b: number;
  at: number; // percent of the way from a to b
  middle: string; // a mix as text, of the neighbours; empty: that of a
  right: number; // the seeds towards which the neighbours lie
  down: number;
  distance: number; // between neighbours
  hand: string; // a mix as text, of the alphabet
}

const BEGINNING: State = { a: 7, b: 12, at: 50, middle: "", right: 101, down: 102, distance: 0.3, hand: "7" };

class Explore implements View {
  private state = { ...BEGINNING };
  private readonly model: HTMLSelectElement;
  private readonly letter = make("select", { id: "explore-letter", name: "letter" });
  private readonly a = seedField("a");
  private readonly b = seedField("b");
  private readonly at = make("input", { id: "explore-at", type: "range", min: "0", max: "100", step: String(STEP) });
  private readonly percent = quiet("");
  private readonly large = make("div", { className: "glyphs large" });
  private readonly strip = make("div", { className: "glyphs strip", role: "group", ariaLabel: t("explore.between") });
  private readonly neighbours = make("div", { className: "glyphs neighbours", role: "group", ariaLabel: t("explore.around") });
  private readonly distance = make("input", { id: "explore-distance", type: "range", min: "0.1", max: "0.8", step: "0.1" });
  private readonly hand = make("input", { id: "explore-hand", autocomplete: "off", spellcheck: false });
  private readonly alphabet = make("div", { className: "alphabet" });
  private readonly alphabetPart: HTMLElement;
  private readonly alphabetTitle = make("h2");
  readonly element: HTMLElement;
  private frames: HTMLImageElement[] = []; // of the walk, which are ready to be shown
  private around: Mix[] = []; // the neighbours, row by row
  private opened = false;
  private walked = Promise.resolve(); // one part after the other, so that the first is there soon
  private looked = Promise.resolve();
  private readonly drawWalk: () => void;
  private readonly drawNeighbours: (pause?: boolean) => void;
  private readonly drawAlphabet: () => Promise<void>;

  constructor(private readonly context: Context) {
    const { models } = context;
    this.model = modelSelect("explore-model", models, preferred(models).dataset);
    const walkStatus = status(), aroundStatus = status(), alphabetStatus = status(), drawing = t("explore.drawing");
    const walk = task(walkStatus, [this.at, this.a, this.b], drawing, (signal) => this.walk(signal));
    const look = task(aroundStatus, [this.distance], drawing, (signal, pause?: boolean) => this.look(signal, pause));
    this.drawWalk = () => void (this.walked = walk());
    this.drawNeighbours = (pause) => void (this.looked = look(pause));
    this.drawAlphabet = task(alphabetStatus, [this.hand], drawing, (signal) => this.write(signal));

    const model = labelled(t("explore.model"), this.model);
    model.hidden = models.length < 2;
    const walkPart = make("section", { className: "part" }, make("h2", { textContent: t("explore.walk") }), about("walkAbout"),
      this.large, this.strip, slider(t("explore.at"), this.at, quiet("A"), this.percent, quiet("B")),
      make("div", { className: "hands" }, ...(["a", "b"] as const).map((name) => labelled(t(`explore.${name}`), this[name],
        this.button("another", () => this.changeSeed(name, nextSeed(this.state[name], [this.state.a, this.state.b])))))),
      make("div", { className: "row" }, this.button("alphabetOf", () => this.writeWith(this.between(this.state.at))), walkStatus));
    const aroundPart = make("section", { className: "part" }, make("h2", { textContent: t("explore.around") }), about("aroundAbout"), this.neighbours,
      slider(t("explore.distance"), this.distance, quiet(t("explore.near")), quiet(t("explore.far"))),
      make("div", { className: "row" }, this.button("directions", () => this.turn()), this.button("back", () => this.moveTo(alone(this.state.a))),
        this.button("alphabetOf", () => this.writeWith(this.middle))), aroundStatus);
    this.alphabetPart = make("section", { className: "part" }, this.alphabetTitle, about("alphabetAbout"), this.alphabet,
      labelled(t("explore.hand"), this.hand, this.button("another", () => this.writeWith(alone(nextSeed(Number.parseInt(this.state.hand), []))))), alphabetStatus);
    this.element = make("div", { className: "view explore" }, make("div", { className: "row" }, model, labelled(t("explore.letter"), this.letter)),
      make("div", { className: "parts" }, walkPart, aroundPart, this.alphabetPart));

    this.model.addEventListener("change", () => {
      this.changeModel();
      this.drawAll();
    });
    this.letter.addEventListener("change", () => this.chooseLetter(this.letter.value));
    for (const name of ["a", "b"] as const) this[name].addEventListener("change", () => this.changeSeed(name));
    this.at.addEventListener("input", () => this.goTo(this.at.valueAsNumber));
    this.at.addEventListener("change", () => this.remember());
    this.distance.addEventListener("input", () => {
      this.state.distance = this.distance.valueAsNumber;
      this.drawNeighbours(true);
    });
    this.hand.addEventListener("change", () => void this.drawAlphabet());
    for (const one of [this.strip, this.neighbours, this.alphabet]) roving(one);
    this.changeModel();
  }

  show(params: URLSearchParams): void {
    const kept = new URLSearchParams(params);
    kept.delete("lang");
    if (this.opened && !kept.size) return this.remember();
    this.opened = true;
    this.model.value = this.context.models.find((one) => one.dataset === kept.get("model"))?.dataset ?? preferred(this.context.models).dataset;
    this.changeModel(kept.get("letter") ?? "");
    const seed = (name: "a" | "b" | "right" | "down"): number => {
      const value = Number(kept.get(name) ?? NaN);
      return Number.isInteger(value) && 0 <= value && value <= MAX_SEED ? value : BEGINNING[name];
    };
    const mix = (name: "middle" | "hand"): string => mixText(parseMix(kept.get(name) ?? "") ?? {}) || BEGINNING[name];
    for (const name of ["at", "distance"] as const) this[name].value = kept.get(name) ?? String(BEGINNING[name]); // the control keeps it in its range
    this.state = { a: seed("a"), b: seed("b"), at: this.at.valueAsNumber, middle: mix("middle"), right: seed("right"), down: seed("down"),
      distance: this.distance.valueAsNumber, hand: mix("hand") };
    this.drawAll();
  }

  private get current(): Model {
    return this.context.models.find((one) => one.dataset === this.model.value)!;
  }

  private get middle(): Mix {
    return parseMix(this.state.middle) ?? alone(this.state.a);
  }

  private button(text: string, act: () => void): HTMLButtonElement {
    const button = make("button", { type: "button", textContent: t(`explore.${text}`) });
    button.addEventListener("click", act);
    return button;
  }

  private changeModel(letter?: string): void {
    const letters = letterRows(this.current).flat(), { takes_labels } = this.current, wanted = letter ?? this.letter.value;
    this.letter.replaceChildren(...letters.map((one) => spoken(one, "option")));
    this.letter.value = letters.includes(wanted) ? wanted : letters[0]!;
    this.letter.lang = languageOf(this.letter.value);
    this.letter.parentElement!.hidden = this.alphabetPart.hidden = !takes_labels;
    this.alphabetTitle.textContent = t(letters.every((one) => /^\p{Nd}$/u.test(one)) ? "explore.digits" : "explore.alphabet");
  }

  private drawAll(): void {
    for (const name of ["a", "b", "hand"] as const) this[name].value = String(this.state[name]);
    this.drawWalk();
    this.drawNeighbours();
    if (this.current.takes_labels) void this.drawAlphabet();
  }

  private chooseLetter(letter: string): void {
    this.letter.value = letter;
    this.letter.lang = languageOf(letter);
    this.markLetter();
    this.drawWalk();
    this.drawNeighbours();
  }

  private changeSeed(name: "a" | "b", seed?: number): void {
    if (seed !== undefined) this[name].value = String(seed);
    this.drawWalk();
    if (name === "a") this.moveTo();
  }

  // The pictures at these points, asked for after something else, for a place that is dimmed until they are there.
  private async ask(points: Point[], place: HTMLElement[], signal: AbortSignal, after?: Promise<void>): Promise<Glyph[]> {
    this.remember();
    for (const one of place) one.classList.add("stale");
    await after;
    signal.throwIfAborted();
    const glyphs = await this.context.engine.explore({ model: this.model.value, points }, signal);
    signal.throwIfAborted();
    for (const one of place) one.classList.remove("stale");
    return glyphs;
  }

  // --- between two hands ---

  private between(percent: number): Mix {
    const angle = (percent / 100) * (Math.PI / 2);
    return blend([alone(this.state.a), Math.cos(angle)], [alone(this.state.b), Math.sin(angle)]);
  }

  private async walk(signal: AbortSignal): Promise<string> {
    this.state.a = wholeNumber(this.a, t("explore.a"));
    this.state.b = wholeNumber(this.b, t("explore.b"));
    const label = this.letter.value, points = Array.from({ length: 100 / STEP + 1 }, (_, i) => ({ label, mix: this.between(i * STEP) }));
    const glyphs = await this.ask(points, [this.large, this.strip], signal);
    this.frames = glyphs.map((one) => picture(one.src, one.glyph));
    refill(this.strip, Array.from({ length: 100 / STRIP_STEP + 1 }, (_, i) => {
      const percent = i * STRIP_STEP;
      return tile(glyphs[percent / STEP]!.src, t("explore.percent", percent), () => {
        this.goTo(percent);
        this.remember();
      });
    }));
    this.goTo(this.state.at);
    return "";
  }

  private goTo(percent: number): void {
    const step = Math.round(percent / STEP);
    this.state.at = step * STEP;
    this.at.value = String(this.state.at);
    this.at.setAttribute("aria-valuetext", t("explore.percent", this.state.at));
    this.percent.textContent = `${this.state.at}%`;
    this.large.replaceChildren(...this.frames.slice(step, step + 1));
    this.strip.querySelectorAll("button").forEach((one, i) => mark(one, i * STRIP_STEP === this.state.at));
  }

  // --- around one hand ---

  private async look(signal: AbortSignal, pause = false): Promise<string> {
    const { right, down, distance } = this.state, middle = this.middle, steps = Array.from({ length: 2 * REACH + 1 }, (_, i) => (i - REACH) * distance);
    const [across, along] = [towards(right, middle), towards(down, middle)];
    const mixes = steps.flatMap((y) => steps.map((x) => blend([middle, 1], [across, x], [along, y])));
    const after = pause ? new Promise<void>((resolve) => setTimeout(resolve, PAUSE)) : this.walked;
    const glyphs = await this.ask(mixes.map((mix) => ({ label: this.letter.value, mix })), [this.neighbours], signal, after);
    this.around = mixes;
    refill(this.neighbours, glyphs.map((one, i) => {
      const row = Math.floor(i / steps.length) - REACH, column = (i % steps.length) - REACH;
      const button = tile(one.src, row || column ? t("explore.place", row + REACH + 1, column + REACH + 1) : t("explore.middle"), () => this.moveTo(this.around[i]));
      mark(button, !row && !column);
      return button;
    }));
    return "";
  }

  // Make this the middle, or the hand A. A direction that has been followed to its end gives way to a new one.
  private moveTo(middle?: Mix): void {
    this.state.middle = middle && mixText(middle) !== String(this.state.a) ? mixText(middle) : "";
    for (const way of ["right", "down"] as const) if (Math.abs(this.middle[this.state[way]] ?? 0) > ARRIVED) this.state[way] = this.unused(this.state[way]);
    this.drawNeighbours();
  }

  private turn(): void {
    this.state.right = this.unused(Math.max(this.state.right, this.state.down));
    this.state.down = this.unused(this.state.right);
    this.drawNeighbours();
  }

  private unused(seed: number): number {
    return nextSeed(seed, [...Object.keys(this.middle).map(Number), this.state.a, this.state.right, this.state.down]);
  }

  // --- one hand, all letters ---

  private async write(signal: AbortSignal): Promise<string> {
    const mix = parseMix(this.hand.value);
    if (!mix) throw new FieldError(this.hand, t("explore.noHand"));
    this.state.hand = this.hand.value = mixText(mix);
    const rows = letterRows(this.current), points = rows.flat().map((label) => ({ label, mix }));
    const glyphs = await this.ask(points, [this.alphabet], signal, this.looked);
    const tiles = glyphs.map((one) => tile(one.src, one.glyph, () => this.chooseLetter(one.glyph)));
    refill(this.alphabet, rows.map((row) => make("div", { className: "glyphs" }, ...tiles.splice(0, row.length))));
    this.markLetter();
    return "";
  }

  private writeWith(mix: Mix): void {
    this.hand.value = mixText(mix);
    this.alphabetPart.scrollIntoView({ block: "nearest" });
    void this.drawAlphabet();
  }

  private markLetter(): void {
    for (const one of this.alphabet.querySelectorAll("button")) mark(one, one.ariaLabel === this.letter.value);
  }

  private remember(): void {
    const { models } = this.context, usual = preferred(models), params: Record<string, string | number | undefined> = {};
    params.model = this.current === usual ? undefined : this.current.dataset;
    params.letter = this.letter.selectedIndex > 0 ? this.letter.value : undefined;
    for (const key of Object.keys(BEGINNING) as (keyof State)[]) params[key] = this.state[key] === BEGINNING[key] ? undefined : this.state[key];
    this.context.remember(params);
  }
}

const status = (): HTMLElement => make("p", { role: "status" });
const quiet = (text: string): HTMLElement => make("span", { className: "quiet", textContent: text });
const about = (text: string): HTMLElement => make("p", { className: "quiet", textContent: t(`explore.${text}`) });

function seedField(name: string): HTMLInputElement {
  return make("input", { id: `explore-${name}`, type: "number", inputMode: "numeric", min: "0", max: String(MAX_SEED), step: "1" });
}

function slider(text: string, control: HTMLInputElement, ...ends: HTMLElement[]): HTMLElement {
  const field = labelled(text, control, make("div", { className: "ends" }, ...ends));
  field.classList.add("slider");
  return field;
}

function tile(src: string, name: string, act: () => void): HTMLButtonElement {
  const button = make("button", { type: "button", className: "tile", tabIndex: -1, ariaLabel: name, title: name, lang: languageOf(name) }, picture(src, ""));
  button.addEventListener("click", act);
  return button;
}

const mark = (button: HTMLButtonElement, chosen: boolean): void => button.setAttribute("aria-pressed", String(chosen));

// New buttons in a roving group; the focus stays in its place.
function refill(container: HTMLElement, children: HTMLElement[]): void {
  const before = [...container.querySelectorAll("button")], place = before.indexOf(document.activeElement as HTMLButtonElement);
  const stop = before.findIndex((one) => one.tabIndex === 0);
  container.replaceChildren(...children);
  const after = [...container.querySelectorAll("button")];
  (after[stop] ?? after.find((one) => one.ariaPressed === "true") ?? after[0])!.tabIndex = 0;
  if (place >= 0) after[place]?.focus();
}

addTexts("explore", {
  title: ["Explore", "घूमकर देखें"],
  model: ["Model", "मॉडल"],
  letter: ["Letter", "अक्षर"],
  drawing: ["Drawing …", "बनाया जा रहा है …"],
  walk: ["From one hand to another", "एक लिखावट से दूसरी तक"],
  walkAbout: ["Each picture grows out of noise, and each seed is a noise: a hand. Between two of them lie all shades.",
    "हर तस्वीर शोर (noise) से बनती है, और हर बीज संख्या एक शोर यानी एक लिखावट है। दो लिखावटों के बीच उनके सारे मिले-जुले रूप हैं।"],
  at: ["From A to B", "A से B तक"],
  percent: ["{0}% of the way from A to B", "A से B की ओर {0}%"],
  between: ["Between A and B", "A और B के बीच"],
  a: ["Hand A (seed)", "लिखावट A (बीज)"],
  b: ["Hand B (seed)", "लिखावट B (बीज)"],
  another: ["Another hand", "दूसरी लिखावट"],
  alphabetOf: ["All letters like this", "सारे अक्षर ऐसे ही"],
  around: ["Neighbours", "आस-पास"],
  aroundAbout: ["Small steps away from the middle, which begins as hand A. Choose a picture to go there.",
    "बीच की तस्वीर से छोटे-छोटे क़दम दूर के रूप; शुरुआत लिखावट A से होती है। किसी तस्वीर को चुनें, तो वह बीच में आ जाएगी।"],
  middle: ["Middle", "बीच"],
  place: ["Row {0}, column {1}", "पंक्ति {0}, स्तंभ {1}"],
  distance: ["Distance", "दूरी"],
  near: ["near", "पास"],
  far: ["far", "दूर"],
  directions: ["Other directions", "दूसरी दिशाएँ"],
  back: ["Back to A", "वापस A पर"],
  alphabet: ["One hand writes the alphabet", "एक ही लिखावट में पूरी वर्णमाला"],
  digits: ["One hand writes the digits", "एक ही लिखावट में सारे अंक"],
  alphabetAbout: ["The same noise for all letters. Choose one to explore it.", "सारे अक्षरों के लिए एक ही शोर। किसी अक्षर को चुनें, तो उसी में घूमेंगे।"],
  hand: ["Hand (seed, or seeds with weights)", "लिखावट (बीज, या भार के साथ कई बीज)"],
  noHand: ["A hand is a seed such as 7, or up to eight seeds with weights such as 7:0.8 12:0.6.",
    "लिखावट के लिए 7 जैसा कोई बीज दें, या भार के साथ आठ तक बीज, जैसे 7:0.8 12:0.6।"],
});

export const explore = { name: "explore", create: (context: Context): View => new Explore(context) };
