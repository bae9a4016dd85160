// Draw and read: a character or a row of digits on a pad, what it is read as, and the same written again.
import { captioned, complain, errorOf, labelled, make, spoken, task } from "../dom";
import { Glyph, Model, Reading, Refusal, Translation } from "../engine";
import { glyphsOf, inOwnDigits, isDigit, modelSelect, preferred, shortNameOf } from "../models";
import { Pad, Step } from "../pad";
import { addTexts, currentLanguage, t } from "../texts";
import { Context, View } from "../view";

const SEED = 7;
const PAUSE = 500; // milliseconds after a stroke in which another one may begin
const SURE = 0.9; // a part below it is a guess, as for the server
const drawn: Step[] = []; // outlives the view, which is made again in another language

type Taken = "character" | "number"; // what a picture is taken for although it is not read for sure

const canWrite = (model: Model, glyphs: string[]): boolean => model.takes_labels && glyphs.every((one) => glyphsOf(model).includes(inOwnDigits(one, glyphsOf(model))));
const percent = (share: number): string => share < 0.001 ? "< 0.1%" : new Intl.NumberFormat(currentLanguage(), { style: "percent", maximumFractionDigits: 1 }).format(share);
const textOf = (readings: Reading[]): string => readings.map((one) => one.glyph).join("");

class Draw implements View {
  private readonly source: HTMLSelectElement;
  private readonly to: HTMLSelectElement;
  private readonly file = make("input", { id: "draw-file", type: "file", accept: "image/*" });
  private readonly status = make("p", { role: "status", className: "unseen" });
  private readonly reading = make("div", { id: "reading", tabIndex: -1 });
  private readonly again = make("section", { id: "again", hidden: true });
  private readonly againTitle = make("h2");
  private readonly written = make("div", { className: "glyphs" });
  private readonly answer = make("section", { className: "answer", ariaLabel: t("draw.answer") }, this.reading, this.again);
  private readonly pad: Pad;
  private seed = SEED;
  private target: string | undefined; // whose hand was chosen; otherwise that of another model
  private taken: Taken | undefined;
  private timer = 0;
  private runs = 0;
  private readonly run: (taken?: Taken) => Promise<void>;
  private readonly keys = (event: KeyboardEvent): void => this.press(event);
  private readonly paste = (event: ClipboardEvent): void => this.putFirst(event.clipboardData?.files);
  readonly element: HTMLElement;

  constructor(private readonly context: Context) {
    const { models } = context;
    this.source = modelSelect("draw-model", models, preferred(models).dataset, shortNameOf);
    this.to = modelSelect("draw-to", models, "", shortNameOf);
    this.run = task(this.status, [this.file, this.source], "", (signal, taken?: Taken) => this.work(signal, taken));
    const canvas = make("canvas", { id: "pad", role: "img", ariaLabel: t("draw.pad") });
    this.pad = new Pad(canvas, drawn, () => clearTimeout(this.timer), () => this.readSoon());
    const tool = (name: string, act: () => void, className = ""): HTMLButtonElement => {
      const button = make("button", { type: "button", className, textContent: t(`draw.${name}`) });
      button.addEventListener("click", act);
      return button;
    };
    const source = labelled(t("draw.source"), this.source);
    source.hidden = models.length < 2;
    const upload = make("label", { className: "button" }, t("draw.upload"), this.file);
    const sheet = make("section", { className: "sheet", ariaLabel: t("draw.sheet") }, source, canvas,
      make("div", { className: "row" }, tool("undo", () => this.pad.undo()), tool("clear", () => this.pad.clear()), upload, tool("read", () => void this.read(), "primary")),
      errorOf(this.file));
    this.again.append(make("div", { className: "row" }, this.againTitle, this.to), make("div", { className: "row" }, this.written, tool("another", () => this.anotherHand())));
    this.to.ariaLabel = t("draw.to");
    this.element = make("div", { className: "view draw" }, sheet, this.answer, this.status);

    this.source.addEventListener("change", () => void this.read());
    this.to.addEventListener("change", () => {
      this.target = this.to.value;
      void this.read(this.taken);
    });
    this.file.addEventListener("change", () => this.putFirst(this.file.files));
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.putFirst(event.dataTransfer?.files);
    });
    this.showNothing();
  }

  show(params: URLSearchParams): void {
    const known = (name: string): string | undefined => this.context.models.find((one) => one.dataset === params.get(name))?.dataset;
    this.source.value = known("model") ?? preferred(this.context.models).dataset;
    this.target = known("to");
    this.seed = Number(params.get("seed") ?? SEED) || 0;
    document.addEventListener("keydown", this.keys);
    document.addEventListener("paste", this.paste);
    if (!this.pad.empty) void this.read();
  }

  hide(): void {
    clearTimeout(this.timer);
    document.removeEventListener("keydown", this.keys);
    document.removeEventListener("paste", this.paste);
  }

  private model(dataset: string): Model {
    return this.context.models.find((one) => one.dataset === dataset)!;
  }

  private press(event: KeyboardEvent): void {
    if (!(event.ctrlKey || event.metaKey) || event.shiftKey || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    this.pad.undo();
  }

  private putFirst(files: FileList | null | undefined): void {
    const file = files?.[0];
    if (!file) return;
    void this.pad.put(file).then((done) => {
      this.file.value = ""; // so that the same file can be chosen again
      if (!done) complain(this.file, t("draw.noPicture"));
    });
  }

  private anotherHand(): void {
    this.seed = (this.seed + 1) % 2 ** 31;
    void this.read(this.taken);
  }

  private readSoon(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.read(), this.pad.empty ? 0 : PAUSE);
  }

  private async read(taken?: Taken): Promise<void> {
    clearTimeout(this.timer);
    const run = ++this.runs;
    this.taken = taken;
    this.answer.ariaBusy = "true";
    await this.run(taken);
    if (run === this.runs) this.answer.ariaBusy = "false";
  }

  private async work(signal: AbortSignal, taken?: Taken): Promise<Node> {
    this.remember();
    if (this.pad.empty) return this.showNothing();
    const { engine } = this.context, force = taken !== undefined, asked = { model: this.source.value, image: this.pad.picture(), force };
    const one = taken === "number" ? undefined : await orUnread(engine.recognise(asked, signal));
    if (one && !(one instanceof Refusal)) return this.showRead([one], signal);
    if (one && one.unread.reason !== "several") return this.showDoubt(one);
    // Several glyphs: a number, unless one of them is no digit.
    const to = this.targetOf([...glyphsOf(this.model(asked.model)).filter(isDigit)]);
    const number = to && (await orUnread(engine.translate({ ...asked, to: to.dataset, seed: this.seed }, signal)));
    if (number && !(number instanceof Refusal)) return this.showNumber(number, to);
    const parts = one?.unread.parts ?? [];
    if (parts.length && parts.every((part) => part.confidence >= SURE)) return this.showRead(parts, signal);
    return this.showSeveral(one ?? (number as Refusal), number || undefined);
  }

  // Who writes again what was read: the model that was chosen, or else another one than reads, if it can. None for no digits.
  private targetOf(glyphs: string[]): Model | undefined {
    const able = glyphs.length ? this.context.models.filter((one) => canWrite(one, glyphs)) : [];
    return able.find((one) => one.dataset === this.target) ?? able.find((one) => one.dataset !== this.source.value) ?? able[0];
  }

  private showNothing(): Node {
    this.reading.replaceChildren(make("p", { className: "quiet", textContent: t("draw.how") }));
    this.again.hidden = true;
    return document.createTextNode("");
  }

  // One character, or several that each stand alone; then the same written again.
  private async showRead(found: Reading[], signal: AbortSignal): Promise<Node> {
    const glyphs = found.map((one) => one.glyph), to = this.targetOf(glyphs);
    this.reading.replaceChildren(...(found.length > 1 ? [verdict(t("draw.several", numberWord(found.length)))] : []), readings(found));
    if (to) {
      this.offer(to, glyphs);
      const labels = glyphs.map((one) => inOwnDigits(one, glyphsOf(to)));
      try {
        this.showWritten(await this.context.engine.glyphs({ model: to.dataset, labels, n: 1, seed: this.seed }, signal));
      } catch (error) {
        if (!signal.aborted) this.again.hidden = true;
        throw error;
      }
    } else this.again.hidden = true;
    return make("span", {}, `${t("draw.readAs")} `, spoken(glyphs.join(" ")), ...(found.length > 1 ? [] : [`, ${percent(found[0]!.confidence)}`]));
  }

  private showNumber(number: Translation, to: Model): Node {
    const count = number.digits.length, text = make("b", { className: "number", textContent: number.read });
    this.reading.replaceChildren(make("p", {}, `${t("draw.number", numberWord(count))} `, text), readings(number.digits));
    this.offer(to, [...number.read]);
    this.showWritten(number.images);
    return make("span", {}, `${t("draw.readAs")} `, spoken(number.read));
  }

  // Something that may be anything, with what it is likeliest.
  private showDoubt(why: Refusal): Node {
    const { reason = "unsure" } = why.unread, says = t(`draw.${reason}`), found = why.readings ?? [];
    this.reading.replaceChildren(verdict(says), make("p", { className: "quiet", textContent: t(`draw.${reason}.do`) }));
    if (found.length) this.reading.append(readings(found), this.take("character", found));
    this.again.hidden = true;
    return document.createTextNode(says);
  }

  // Several glyphs, of which some are no digits or are in doubt.
  private showSeveral(character: Refusal, number?: Refusal): Node {
    const { glyphs = 0, parts = [] } = character.unread, says = glyphs ? t("draw.several", numberWord(glyphs)) : t("draw.some");
    this.reading.replaceChildren(verdict(says), make("p", { className: "quiet", textContent: t("draw.several.do") }));
    const shown = parts.length ? parts : number?.readings ?? [];
    if (shown.length) this.reading.append(readings(shown));
    const row = make("div", { className: "row" });
    if (number?.readings?.length) row.append(this.take("number", number.readings));
    if (character !== number && character.readings?.length) row.append(this.take("character", character.readings));
    this.reading.append(row);
    this.again.hidden = true;
    return document.createTextNode(says);
  }

  private take(taken: Taken, found: Reading[]): HTMLButtonElement {
    const button = make("button", { type: "button", className: "take" }, `${t(`draw.take.${taken}`)} `, spoken(textOf(found), "b"));
    button.addEventListener("click", () => {
      this.reading.focus(); // the button goes
      void this.read(taken);
    });
    return button;
  }

  private offer(to: Model, glyphs: string[]): void {
    const able = this.context.models.filter((one) => canWrite(one, glyphs)), choice = able.length > 1;
    const same = glyphs.length > 1 ? "several" : isDigit(glyphs[0]!) ? "digit" : "letter";
    this.to.value = to.dataset;
    this.to.hidden = !choice;
    for (const option of this.to.options) option.hidden = option.disabled = !able.some((one) => one.dataset === option.value);
    const name = glyphs.every(isDigit) && glyphs.length > 1 ? "number" : same;
    this.againTitle.textContent = t(`draw.${choice ? "in" : "again"}.${name}`);
  }

  private showWritten(images: Glyph[]): void {
    this.written.replaceChildren(...images.map((one) => captioned(one.src, one.glyph)));
    this.again.hidden = false;
  }

  private remember(): void {
    const source = this.source.value;
    this.context.remember({
      model: source === preferred(this.context.models).dataset ? undefined : source,
      to: this.target,
      seed: this.seed === SEED ? undefined : this.seed,
    });
  }
}

// What is asked for, or why a picture was not read; other refusals are errors.
async function orUnread<T>(asked: Promise<T>): Promise<T | Refusal> {
  return asked.catch((error: unknown) => {
    if (error instanceof Refusal && (error.readings || error.unread.reason)) return error;
    throw error;
  });
}

const verdict = (text: string): HTMLElement => make("p", { className: "verdict", textContent: text });

function guess(glyph: string, confidence: number): HTMLElement[] {
  const meter = make("meter", { value: confidence, ariaLabel: t("draw.confidence", glyph) });
  return [spoken(glyph, "b"), make("span", { className: "share" }, meter, ` ${percent(confidence)}`)];
}

// Each glyph with the confidence in it, and below it what else it may be.
function readings(found: Reading[]): HTMLElement {
  return make("ul", { className: `readings ${found.length === 1 ? "alone" : found.length > 2 ? "many" : ""}` }, ...found.map((one) => make("li", {}, ...guess(one.glyph, one.confidence),
    make("ul", { ariaLabel: t("draw.else") }, ...one.alternatives.map((other) => make("li", {}, ...guess(other.glyph, other.confidence)))))));
}

// "three" for 3.
const numberWord = (count: number): string => t("draw.numbers").split(" ")[count - 2] ?? String(count);

addTexts("draw", {
  title: ["Draw and read", "बनाएँ और पढ़ें"],
  sheet: ["Sheet", "पन्ना"],
  pad: ["Sheet to draw on with mouse, pen or finger", "माउस, कलम या उँगली से लिखने का पन्ना"],
  answer: ["What it is read as", "क्या पढ़ा गया"],
  source: ["What is drawn", "क्या लिखा जाएगा"],
  to: ["In whose handwriting", "किसकी लिखावट में"],
  undo: ["Undo", "वापस लें"],
  clear: ["Clear", "साफ़ करें"],
  upload: ["Upload picture", "चित्र चुनें"],
  read: ["Read", "पढ़ें"],
  another: ["Another hand", "दूसरी लिखावट"],
  how: ["Draw a character, or digits side by side. It is read as soon as you pause. A picture can be uploaded, pasted or dropped here too.",
    "कोई अक्षर बनाएँ, या एक पंक्ति में अंक लिखें। रुकते ही वह पढ़ लिया जाता है। चित्र चुनकर, पेस्ट करके या यहाँ खींचकर भी दिया जा सकता है।"],
  noPicture: ["This file cannot be read; choose a picture such as a PNG or JPEG.", "यह फ़ाइल पढ़ी नहीं जा सकी; PNG या JPEG जैसा कोई चित्र चुनें।"],
  readAs: ["Read as", "पढ़ा गया:"],
  number: ["This looks like {0} digits:", "इसमें {0} अंक लगते हैं:"],
  numbers: ["two three four five six seven eight nine ten", "दो तीन चार पाँच छह सात आठ नौ दस"],
  confidence: ["Confidence in {0}", "{0} पर विश्वास"],
  else: ["What else it may be", "और क्या हो सकता है"],
  several: ["This looks like {0} glyphs", "इसमें {0} चिह्न लगते हैं"],
  some: ["This looks like several glyphs", "इसमें कई चिह्न लगते हैं"],
  "several.do": ["Not all of them are digits for sure. Draw a character alone, or clear digits with space between them.",
    "सभी पक्के तौर पर अंक नहीं हैं। एक ही अक्षर बनाएँ, या अंकों को साफ़ और अलग-अलग लिखें।"],
  unsure: ["I am not sure what this is", "पक्का नहीं कि यह क्या है"],
  "unsure.do": ["It may be no character, or not a clear one. Draw it larger, or take the likeliest.", "शायद यह कोई अक्षर नहीं है, या साफ़ नहीं है। इसे बड़ा बनाएँ, या सबसे संभावित मान लें।"],
  none: ["There is nothing to be seen", "यहाँ कुछ दिखाई नहीं देता"],
  "none.do": ["Ink and paper hardly differ. Draw something, or choose a clearer picture.", "स्याही और काग़ज़ में अंतर बहुत कम है। कुछ बनाएँ, या ज़्यादा साफ़ चित्र चुनें।"],
  rows: ["This shows several rows", "इसमें कई पंक्तियाँ हैं"],
  "rows.do": ["Draw one, or cut the picture to one.", "एक ही पंक्ति लिखें, या चित्र में एक ही पंक्ति रखें।"],
  "take.character": ["Take it anyway, as", "फिर भी मान लें:"],
  "take.number": ["Take it anyway, as the number", "फिर भी संख्या मान लें:"],
  "in.number": ["The same number in", "यही संख्या इस लिखावट में:"],
  "in.digit": ["The same digit in", "यही अंक इस लिखावट में:"],
  "in.letter": ["The same letter in", "यही अक्षर इस लिखावट में:"],
  "in.several": ["The same in", "यही इस लिखावट में:"],
  "again.number": ["The same number in another hand", "यही संख्या दूसरी लिखावट में"],
  "again.digit": ["The same digit in another hand", "यही अंक दूसरी लिखावट में"],
  "again.letter": ["The same letter in another hand", "यही अक्षर दूसरी लिखावट में"],
  "again.several": ["The same in another hand", "यही दूसरी लिखावट में"],
});

export const draw = { name: "draw", create: (context: Context): View => new Draw(context) };
