// Write: a text in as many hands as wanted, as lines or letter by letter.
import { captioned, Control, errorOf, FieldError, labelled, make, picture, roving, task, wholeNumber } from "../dom";
import { FileKind, Model, Written } from "../engine";
import { formsNote, glyphName, glyphsOf, inOwnDigits, letterRows, modelSelect, preferred, split } from "../models";
import { addTexts, languageOf, t } from "../texts";
import { Context, View } from "../view";

const HEIGHT = 144; // of a line, pixels, and that of a long one, for which 144 are more than a server takes
const LOW = 96, LONG = 80;
const VOWEL_SIGNS = ["ा", "ि", "ी", "ु", "ू", "ृ", "े", "ै", "ो", "ौ", "ं", "ँ", "ः", "्"];
const MAX_SEED = 2 ** 31;

// What the page begins with: a word and today's date, or the first letters of a model that has not the word's.
function opening(model: Model): string {
  const own = glyphsOf(model), now = new Date(), date = [now.getDate(), now.getMonth() + 1, now.getFullYear()];
  if (["ल", "ख", "न"].every((one) => own.includes(one))) return `लेखनी ${inOwnDigits(date.join("."), own)}`;
  const digits = inOwnDigits(date.join(" "), own);
  return [...digits].every((one) => one === " " || own.includes(one)) ? digits : own.slice(0, 3).join("");
}

class Write implements View {
  private readonly text = make("input", { id: "text", name: "text", maxLength: 200, autocomplete: "off", autocapitalize: "off", spellcheck: false });
  private readonly model: HTMLSelectElement;
  private readonly style = choice("style", ["lines", "letters"]);
  private readonly count = number("count", 1, 24, 1);
  private readonly seed = number("seed", 0, undefined, 7);
  private readonly paper = choice("paper", ["plain", "ruled", "squared"]);
  private readonly ink = choice("ink", ["any", "black", "blue", "pencil"]);
  private readonly augment = choice("augment", ["none", "light", "strong"], "light");
  private readonly variety = make("input", { id: "variety", name: "variety", type: "range", min: "0", max: "1", step: "0.1", value: "0.3" });
  private readonly sure = make("input", { id: "min_confidence", name: "min_confidence", type: "range", min: "0", max: "0.99", step: "0.01", value: "0" });
  private readonly status = make("p", { id: "write-status", role: "status" });
  private readonly written = make("div", { id: "written" });
  private readonly saves = make("span", { id: "save", hidden: true });
  private readonly letters = make("div", { id: "letters", role: "toolbar", ariaLabel: t("write.letters") });
  private readonly note = make("div");
  private readonly more = make("details", { id: "more" });
  readonly element: HTMLElement;
  private offered = "";
  private shown: Written | undefined; // what is on the page, which is made again to save it
  private caret: { text: string; at: number } | undefined; // of the field without focus, in which Chromium 150 forgets it
  private submitted: string | undefined; // the last request of the button: the same once more means another hand
  private readonly write: () => Promise<void>;

  constructor(private readonly context: Context) {
    const { engine, models } = context;
    this.model = modelSelect("model", models, preferred(models).dataset);
    const controls: Control[] = [this.text, this.model, this.count, this.seed, this.paper, this.ink, this.augment, this.variety, this.sure];
    this.write = task(this.status, controls, t("write.writing"), (signal) => this.work(signal));
    const save = task(this.status, controls, t("write.saving"), (signal, kind: FileKind) => this.save(kind, signal));
    const another = make("button", { type: "button", id: "another", textContent: t("write.another") });
    const form = make("form", { id: "write", noValidate: true },
      make("label", { htmlFor: "text", textContent: t("write.text") }),
      make("div", { className: "row" }, this.text, make("button", { className: "primary", textContent: t("write.title") }), another),
      errorOf(this.text));
    for (const kind of engine.fileKinds) this.saves.append(make("button", { type: "button", value: kind, textContent: t("write.save", kind.toUpperCase()) }));
    this.saves.append(make("button", { type: "button", value: "link", textContent: t("write.link") }));
    this.fillMore();
    const result = make("section", { className: "result", ariaLabel: t("write.result") }, this.written, make("div", { className: "row" }, this.status, this.saves));
    this.element = make("div", { className: "view write" }, form, result, this.more, this.letters, this.note);

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.submitted && this.submitted === this.asked()) this.anotherHand();
      this.submitted = this.asked();
      void this.write();
    });
    another.addEventListener("click", () => {
      this.anotherHand();
      this.submitted = this.asked();
      void this.write();
    });
    this.model.addEventListener("change", () => {
      this.changeModel();
      void this.write();
    });
    for (const one of [this.style, this.count, this.seed, this.paper, this.ink, this.augment, this.variety, this.sure]) one.addEventListener("change", () => void this.write());
    this.style.addEventListener("change", () => this.showOptions());
    this.text.addEventListener("input", () => this.showLanguage());
    this.text.addEventListener("focus", () => (this.caret = undefined));
    this.saves.addEventListener("click", (event) => {
      const kind = (event.target as HTMLButtonElement).value;
      if (kind === "link") void navigator.clipboard?.writeText(location.href).then(() => (this.status.textContent = t("write.linked")));
      else if (kind) void save(kind as FileKind);
    });
    this.letters.addEventListener("click", (event) => this.tap(event));
    roving(this.letters);
    this.changeModel();
    this.showOptions();
  }

  show(params: URLSearchParams): void {
    const wanted = params.get("model");
    if (wanted && wanted !== this.model.value && this.context.models.some((one) => one.dataset === wanted)) {
      this.model.value = wanted;
      this.changeModel();
    }
    for (const control of [this.text, this.count, this.seed, this.style, this.paper, this.ink, this.augment, this.variety, this.sure]) {
      const value = params.get(control.name);
      if (value !== null) control.value = value;
      else if (control instanceof HTMLSelectElement && control.selectedIndex < 0) control.selectedIndex = 0;
    }
    this.showOptions();
    this.showLanguage();
    this.submitted ??= this.asked();
    if (!this.shown || params.size) void this.write();
  }

  private get current(): Model {
    return this.context.models.find((one) => one.dataset === this.model.value)!;
  }

  private fillMore(): void {
    const line = [labelled(t("write.paper"), this.paper), labelled(t("write.ink"), this.ink), labelled(t("write.strength"), this.augment), labelled(t("write.variety"), this.variety)];
    for (const one of line) one.classList.add("of-lines");
    const sure = labelled(t("write.sure"), this.sure);
    sure.classList.add("of-letters");
    const model = labelled(t("write.model"), this.model);
    model.hidden = this.context.models.length < 2;
    this.more.append(make("summary", { textContent: t("write.more") }), make("div", { className: "options" }, model, labelled(t("write.as"), this.style),
      labelled(t("write.count"), this.count), labelled(t("write.seed"), this.seed), ...line, sure));
  }

  private showOptions(): void {
    const lines = this.style.value === "lines";
    for (const one of this.more.querySelectorAll<HTMLElement>(".of-lines")) one.hidden = !lines;
    for (const one of this.more.querySelectorAll<HTMLElement>(".of-letters")) one.hidden = lines;
  }

  private anotherHand(): void {
    this.seed.value = String((Number(this.seed.value) + Math.max(1, Number(this.count.value) || 1)) % MAX_SEED || 0);
  }

  // The request that the form stands for; raises a FieldError.
  private request(): Written {
    if (!this.text.value.trim()) throw new FieldError(this.text, t("write.empty"));
    const common = { model: this.model.value, n: wholeNumber(this.count, t("write.count")), seed: wholeNumber(this.seed, t("write.seed")) };
    if (this.style.value === "letters") {
      const sure = this.sure.valueAsNumber;
      return { route: "generate", body: { ...common, labels: split(this.current, this.text, "write.unknown"), ...(sure ? { min_confidence: sure } : {}) } };
    }
    const look = { augment: this.augment.value as "light", variety: this.variety.valueAsNumber, paper: this.paper.value as "plain", ink: this.ink.value as "any" };
    return { route: "compose", body: { ...common, text: this.text.value, height: this.text.value.length > LONG ? LOW : HEIGHT, ...look } };
  }

  // The same as text; undefined where something is wrong with it.
  private asked(): string | undefined {
    try {
      return JSON.stringify(this.request());
    } catch {
      return undefined;
    }
  }

  private async work(signal: AbortSignal): Promise<Node> {
    const asked = this.request(), { engine } = this.context;
    this.remember();
    if (asked.route === "generate") {
      const glyphs = await engine.glyphs(asked.body, signal);
      this.written.replaceChildren(make("div", { className: "glyphs" }, ...glyphs.map((one) => captioned(one.src, one.glyph))));
      this.keep(asked);
      return document.createTextNode(t("write.lettersDone", glyphs.length, asked.body.seed));
    }
    const done = await engine.lines(asked.body, signal);
    this.written.replaceChildren(make("div", { className: "lines" }, ...done.lines.map((one) => picture(one.src, done.text))));
    this.keep(asked);
    const { n, seed } = asked.body, said = make("span", {}, n > 1 ? t("write.linesDone", n, seed, seed + n - 1) : t("write.lineDone", seed));
    if (done.drawn.length) said.append(` ${t("write.drawn")} `, ...done.drawn.flatMap((one) => [glyphName(one), " "]));
    return said;
  }

  private keep(written: Written): void {
    this.shown = written;
    this.saves.hidden = false;
  }

  private remember(): void {
    const lines = this.style.value === "lines", unless = (value: string, usual: string): string | undefined => (value === usual ? undefined : value);
    this.context.remember({
      model: unless(this.model.value, preferred(this.context.models).dataset),
      text: unless(this.text.value, this.offered),
      style: unless(this.style.value, "lines"),
      count: unless(this.count.value, "1"),
      seed: unless(this.seed.value, "7"),
      paper: lines ? unless(this.paper.value, "plain") : undefined,
      ink: lines ? unless(this.ink.value, "any") : undefined,
      augment: lines ? unless(this.augment.value, "light") : undefined,
      variety: lines ? unless(this.variety.value, "0.3") : undefined,
      min_confidence: lines ? undefined : unless(this.sure.value, "0"),
    });
  }

  private async save(kind: FileKind, signal: AbortSignal): Promise<string> {
    const file = await this.context.engine.save(this.shown!, kind, signal);
    const link = make("a", { href: URL.createObjectURL(file), download: `handwriting.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when the browser has it
    return t("write.saved", link.download);
  }

  // Another model begins with a text of its own, unless one was typed already.
  private changeModel(): void {
    const untouched = this.text.value === this.offered;
    this.offered = opening(this.current);
    if (untouched) this.text.value = this.offered;
    this.showLanguage();
    this.showLetters();
  }

  private showLanguage(): void {
    this.text.lang = languageOf(this.text.value);
  }

  private showLetters(): void {
    const rows = letterRows(this.current), key = (text: string): HTMLButtonElement =>
      make("button", { type: "button", value: text, lang: languageOf(text), tabIndex: -1, textContent: glyphName(text).textContent });
    const row = (glyphs: string[], name?: string): HTMLElement => make("span", { className: "letter-row", role: "group", ...(name ? { ariaLabel: name, title: name } : {}) }, ...glyphs.map(key));
    const shown = rows.map((glyphs) => row(glyphs));
    if (rows.flat().includes("क")) shown.push(row(VOWEL_SIGNS, t("write.signs")));
    const edit = make("span", { className: "letter-row", role: "group" }, make("button", { type: "button", value: " ", tabIndex: -1, textContent: t("write.space") }),
      make("button", { type: "button", value: "back", tabIndex: -1, textContent: t("write.back") }));
    this.letters.replaceChildren(...shown, edit);
    roving(this.letters);
    this.note.replaceChildren(...[formsNote(this.current)].filter((one) => one !== null));
  }

  private tap(event: Event): void {
    const key = (event.target as HTMLElement).closest("button");
    if (!key) return;
    const known = this.caret?.text === this.text.value ? this.caret.at : this.text.selectionEnd;
    const end = known ?? this.text.value.length; // Tab selects all, which should stay
    const back = key.value === "back", [...before] = this.text.value.slice(0, end);
    const start = back ? before.slice(0, -1).join("").length : end, text = back ? "" : key.value;
    this.text.setRangeText(text, start, end);
    this.caret = { text: this.text.value, at: start + text.length };
    this.showLanguage();
  }
}

function number(id: string, min: number, max: number | undefined, value: number): HTMLInputElement {
  return make("input", { id, name: id, type: "number", inputMode: "numeric", min: String(min), max: max === undefined ? "" : String(max), step: "1", value: String(value) });
}

function choice(id: string, values: string[], chosen = values[0]): HTMLSelectElement {
  const select = make("select", { id, name: id });
  select.append(...values.map((value) => make("option", { value, textContent: t(`write.${id}.${value}`), defaultSelected: value === chosen, selected: value === chosen })));
  return select;
}

addTexts("write", {
  title: ["Write", "लिखें"],
  text: ["Text", "पाठ"],
  another: ["Another hand", "दूसरी लिखावट"],
  result: ["Handwriting", "लिखावट"],
  letters: ["Letters", "अक्षर"],
  more: ["More", "और विकल्प"],
  model: ["Model", "मॉडल"],
  as: ["As", "रूप"],
  count: ["How many", "कितनी"],
  seed: ["Seed", "बीज संख्या"],
  paper: ["Paper", "काग़ज़"],
  ink: ["Ink", "स्याही"],
  strength: ["Paper and ink effects", "काग़ज़ और स्याही का असर"],
  variety: ["Variety", "विविधता"],
  sure: ["Least confidence of the judge", "जाँचकर्ता का न्यूनतम विश्वास"],
  "style.lines": ["lines", "पंक्तियाँ"],
  "style.letters": ["letters", "अलग अक्षर"],
  "paper.plain": ["plain", "सादा"],
  "paper.ruled": ["ruled", "रेखांकित"],
  "paper.squared": ["squared", "चौखाना"],
  "ink.any": ["any", "कोई भी"],
  "ink.black": ["black", "काली"],
  "ink.blue": ["blue", "नीली"],
  "ink.pencil": ["pencil", "पेंसिल"],
  "augment.none": ["none", "कोई नहीं"],
  "augment.light": ["light", "हल्का"],
  "augment.strong": ["strong", "गहरा"],
  writing: ["Writing …", "लिखा जा रहा है …"],
  saving: ["Saving …", "सहेजा जा रहा है …"],
  save: ["Save {0}", "{0} सहेजें"],
  saved: ["Saved {0}.", "{0} सहेजा गया।"],
  link: ["Copy link", "लिंक कॉपी करें"],
  linked: ["The link is copied; whoever opens it sees the same.", "लिंक कॉपी हो गया; इसे खोलने वाला यही देखेगा।"],
  empty: ["There is nothing to write; type or tap a text.", "लिखने को कुछ नहीं है; कोई पाठ टाइप करें या अक्षर चुनें।"],
  unknown: ["Letter by letter, the model writes only what is shown, not {0}; write it as a line instead.", "अलग अक्षरों में मॉडल केवल दिखाए गए अक्षर लिखता है, {0} नहीं; इसे पंक्ति के रूप में लिखें।"],
  lettersDone: ["{0} letters, seed {1}.", "{0} अक्षर, बीज {1}।"],
  lineDone: ["Seed {0}.", "बीज {0}।"],
  linesDone: ["{0} lines, seeds {1} to {2}.", "{0} पंक्तियाँ, बीज {1} से {2}।"],
  drawn: ["Drawn from a typeface, not learned:", "सीखे हुए नहीं, मुद्रलिपि से बने:"],
  signs: ["Signs, drawn from a typeface", "मात्राएँ, मुद्रलिपि से"],
  space: ["Space", "ख़ाली जगह"],
  back: ["Backspace", "मिटाएँ"],
});

export const write = { name: "write", create: (context: Context): View => new Write(context) };
