// Watch: glyphs as they come into being, side by side by each model that works in steps.
import { errorOf, FieldError, labelled, make, roving, task, wholeNumber } from "../dom";
import { Model, ServerEngine, Square, Steps } from "../engine";
import { glyphsOf, letterRows, modelSelect, preferred, split } from "../models";
import { addTexts, languageOf, t } from "../texts";
import { Context, View } from "../view";

const MOST = 6; // glyphs at a time
const STEP_MS = 180;
const MAX_SEED = 2 ** 31;

const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;

// What a variant is called: DRAW twice, by its attention, and the flow.
function kindOf(variant: string, windows: (Square | null)[][]): string | undefined {
  if (variant.startsWith("draw")) return windows.flat().some((one) => one) ? "attention" : "plain";
  return variant.startsWith("flow") ? "flow" : undefined;
}

const percent = (part: number): number => Math.round(100 * part);

async function loaded(src: string): Promise<HTMLImageElement> {
  const image = make("img", { src });
  await image.decode();
  return image;
}

// What one model does: its canvas for each glyph, and the window of its last step.
class Column {
  readonly element: HTMLElement;
  private readonly frames: { canvas: HTMLCanvasElement; window: HTMLElement }[];
  private readonly said = make("p", { className: "quiet" });

  private constructor(variant: string, private readonly labels: string[], private readonly images: HTMLImageElement[][], private readonly windows: (Square | null)[][]) {
    const kind = kindOf(variant, windows), title = kind ? t(`watch.${kind}`) : variant;
    this.frames = images[0]!.map(({ naturalWidth: width, naturalHeight: height }, i) => ({
      canvas: make("canvas", { width, height, role: "img", lang: languageOf(labels[i]!) }), window: make("div", { className: "window", hidden: true }),
    }));
    const frames = this.frames.map(({ canvas, window }) => make("div", { className: "frame" }, canvas, window));
    this.element = make("section", { className: "film", ariaLabel: title }, make("h2", { textContent: title }),
      make("div", { className: "frames" }, ...frames), make("div", {}, this.said, make("p", { textContent: kind ? t(`watch.${kind}How`) : "" })));
  }

  static async of(variant: string, labels: string[], { frames, windows }: Steps): Promise<Column> {
    const images = await Promise.all(frames.map((step) => Promise.all(step.map(loaded))));
    return new Column(variant, labels, images, windows);
  }

  get steps(): number {
    return this.images.length - 1;
  }

  // Show the moment at this share of all steps.
  show(share: number): void {
    const step = Math.round(share * this.steps), place = t("watch.step", step, this.steps);
    this.frames.forEach(({ canvas, window }, i) => {
      canvas.getContext("2d")!.drawImage(this.images[step]![i]!, 0, 0);
      const square = this.windows[step]![i], where = square ? t("watch.window", percent(square.x), percent(square.y), percent(square.width)) : "";
      canvas.ariaLabel = [this.labels[i], place, where].filter(Boolean).join(", ");
      window.hidden = !square;
      if (square) outline(window, square);
      if (this.frames.length === 1) this.said.textContent = [place, where].filter(Boolean).join(", ");
      else this.said.textContent = place;
    });
  }
}

// The part of a square that lies in the image.
function outline(element: HTMLElement, { x, y, width }: Square): void {
  const edge = (at: number): number => Math.min(1, Math.max(0, at)), style = element.style;
  style.left = `${100 * edge(x - width / 2)}%`;
  style.right = `${100 * (1 - edge(x + width / 2))}%`;
  style.top = `${100 * edge(y - width / 2)}%`;
  style.bottom = `${100 * (1 - edge(y + width / 2))}%`;
}

class Watch implements View {
  private readonly engine: ServerEngine;
  private readonly models: Model[];
  private readonly text = make("input", { id: "watch-text", name: "labels", maxLength: 40, autocomplete: "off", autocapitalize: "off", spellcheck: false });
  private readonly model: HTMLSelectElement;
  private readonly seed = make("input", { id: "watch-seed", name: "seed", type: "number", inputMode: "numeric", min: "0", step: "1", value: "7" });
  private readonly status = make("p", { id: "watch-status", role: "status" });
  private readonly play = make("button", { type: "button", id: "play" });
  private readonly slider = make("input", { id: "step", type: "range", min: "0", max: "1", step: "1", value: "0", disabled: true });
  private readonly place = make("output", { htmlFor: "step" } as object);
  private readonly shown = make("div", { className: "films" });
  private readonly letters = make("div", { className: "letters", role: "toolbar", ariaLabel: t("watch.letters") });
  readonly element: HTMLElement;
  private offered = "";
  private columns: Column[] = [];
  private share = 1; // of all steps, what is shown
  private timer: number | undefined; // while it plays
  private readonly watch: (share: number | undefined) => Promise<void>;

  constructor(private readonly context: Context) {
    this.engine = context.engine as ServerEngine;
    this.models = context.models.filter((one) => one.animated?.length);
    this.model = modelSelect("watch-model", this.models, this.models.length ? preferred(this.models).dataset : "");
    this.watch = task(this.status, [this.text, this.seed], t("watch.drawing"), (signal, share: number | undefined) => this.work(signal, share));
    const another = make("button", { type: "button", textContent: t("write.another") });
    const model = labelled(t("write.model"), this.model);
    model.hidden = this.models.length < 2;
    const form = make("form", { noValidate: true }, make("label", { htmlFor: this.text.id, textContent: t("watch.text", MOST) }),
      make("div", { className: "row" }, this.text, make("button", { className: "primary", textContent: t("watch.go") }), another), errorOf(this.text));
    const player = make("div", { className: "player" }, this.play, make("label", { htmlFor: "step", textContent: t("watch.steps") }), this.slider, this.place);
    const options = make("div", { className: "options" }, model, labelled(t("write.seed"), this.seed));
    this.element = this.models.length ? make("div", { className: "view" }, form, player, this.shown, this.status, options, this.letters)
      : make("p", { className: "view", textContent: t("watch.none") });

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.watch(undefined);
    });
    another.addEventListener("click", () => {
      this.seed.value = String((Number(this.seed.value) + 1) % MAX_SEED || 0);
      void this.watch(undefined);
    });
    this.seed.addEventListener("change", () => void this.watch(undefined));
    this.model.addEventListener("change", () => {
      this.changeModel();
      void this.watch(undefined);
    });
    this.text.addEventListener("input", () => (this.text.lang = languageOf(this.text.value)));
    this.slider.addEventListener("input", () => {
      this.pause();
      this.showShare(this.slider.valueAsNumber / Number(this.slider.max));
    });
    this.slider.addEventListener("change", () => this.remember(this.share));
    this.play.addEventListener("click", () => (this.timer === undefined ? this.start() : this.pause()));
    this.letters.addEventListener("click", (event) => {
      const key = (event.target as HTMLElement).closest("button");
      if (!key) return;
      this.text.value = key.value;
      void this.watch(undefined);
    });
    if (this.models.length) this.changeModel();
    this.pause();
  }

  show(params: URLSearchParams): void {
    if (!this.models.length) return;
    const model = params.get("model"), text = params.get("text"), share = Number(params.get("at") ?? NaN);
    if (model && model !== this.model.value && this.models.some((one) => one.dataset === model)) {
      this.model.value = model;
      this.changeModel();
    }
    if (text !== null) this.text.value = text;
    this.seed.value = params.get("seed") ?? this.seed.value;
    if (!this.columns.length || params.size) void this.watch(share >= 0 && share <= 1 ? share : undefined);
  }

  hide(): void {
    this.pause();
  }

  private get current(): Model {
    return this.models.find((one) => one.dataset === this.model.value)!;
  }

  // Draw it anew, and show this share of the steps, or else play them all where nothing speaks against motion.
  private async work(signal: AbortSignal, share: number | undefined): Promise<string> {
    const labels = split(this.current, this.text, "watch.unknown"), seed = wholeNumber(this.seed, t("write.seed")), model = this.model.value;
    if (!labels.length) throw new FieldError(this.text, t("watch.empty"));
    if (labels.length > MOST) throw new FieldError(this.text, t("watch.many", MOST));
    this.pause();
    this.share = share ?? (calm() ? 1 : 0);
    this.remember(share);
    const variants = [...this.current.animated!].sort((a, b) => Number(b.startsWith("draw")) - Number(a.startsWith("draw")) || a.localeCompare(b));
    const columns: (Column | undefined)[] = variants.map(() => undefined);
    const done = await Promise.allSettled(variants.map(async (variant, i) => {
      columns[i] = await Column.of(variant, labels, await this.engine.steps({ model, variant, labels, seed }, signal));
      if (!signal.aborted) this.fill(columns.filter((one) => one !== undefined));
    }));
    const failed = done.find((one) => one.status === "rejected");
    if (failed) throw failed.reason;
    if (share === undefined && !calm() && !signal.aborted && this.share === 0) this.start(); // unless the slider was moved meanwhile
    return t("write.lineDone", seed);
  }

  private fill(columns: Column[]): void {
    this.columns = columns;
    this.shown.replaceChildren(...columns.map((one) => one.element));
    this.slider.max = String(Math.max(...columns.map((one) => one.steps)));
    this.slider.disabled = false;
    this.showShare(this.share);
  }

  private showShare(share: number): void {
    this.share = share;
    this.slider.value = String(Math.round(share * Number(this.slider.max)));
    const place = t("watch.step", this.slider.value, this.slider.max);
    this.slider.setAttribute("aria-valuetext", place);
    this.place.textContent = place;
    for (const one of this.columns) one.show(share);
  }

  private start(): void {
    if (!this.columns.length) return;
    if (this.share >= 1) this.showShare(0);
    this.play.textContent = t("watch.pause");
    this.timer = window.setInterval(() => {
      const steps = Number(this.slider.max);
      this.showShare(Math.min(1, (Math.round(this.share * steps) + 1) / steps));
      if (this.share >= 1) this.pause();
    }, STEP_MS);
  }

  private pause(): void {
    window.clearInterval(this.timer);
    this.timer = undefined;
    this.play.textContent = t("watch.play");
  }

  // `share` is kept where somebody chose it; otherwise it is played.
  private remember(share?: number): void {
    const unless = (value: string, usual: string): string | undefined => (value === usual ? undefined : value);
    this.context.remember({
      model: unless(this.model.value, preferred(this.models).dataset),
      text: unless(this.text.value, this.offered),
      seed: unless(this.seed.value, "7"),
      at: share?.toFixed(2),
    });
  }

  // Another model begins with a glyph of its own, unless one was typed already.
  private changeModel(): void {
    const own = glyphsOf(this.current), untouched = this.text.value === this.offered;
    this.offered = own.includes("क") ? "क" : own[0]!;
    if (untouched) this.text.value = this.offered;
    this.text.lang = languageOf(this.text.value);
    this.letters.replaceChildren(...letterRows(this.current).map((row) => make("span", { className: "letter-row", role: "group" },
      ...row.map((glyph) => make("button", { type: "button", value: glyph, lang: languageOf(glyph), tabIndex: -1, textContent: glyph })))));
    roving(this.letters);
  }
}

addTexts("watch", {
  title: ["Watch", "देखें"],
  text: ["A letter, or a word of up to {0} letters", "एक अक्षर, या {0} अक्षरों तक का शब्द"],
  go: ["Watch", "देखें"],
  letters: ["Letters", "अक्षर"],
  play: ["Play", "चलाएँ"],
  pause: ["Pause", "रोकें"],
  steps: ["Step", "चरण"],
  step: ["step {0} of {1}", "चरण {0}, कुल {1}"],
  window: ["window at {0}%, {1}%, {2}% wide", "खिड़की {0}%, {1}% पर, {2}% चौड़ी"],
  attention: ["DRAW with attention", "DRAW, ध्यान के साथ"],
  attentionHow: ["Each step writes within the window, which the model moves and resizes.", "हर चरण खिड़की के भीतर लिखता है, जिसे मॉडल खिसकाता और छोटा-बड़ा करता है।"],
  plain: ["DRAW without attention", "DRAW, ध्यान के बिना"],
  plainHow: ["Each step changes the whole canvas.", "हर चरण पूरे चित्रपट को बदलता है।"],
  flow: ["Flow", "प्रवाह"],
  flowHow: ["Each step moves all pixels a little way from noise to a letter.", "हर चरण सभी पिक्सेलों को शोर से अक्षर की ओर थोड़ा ले जाता है।"],
  drawing: ["Drawing …", "बनाया जा रहा है …"],
  empty: ["There is nothing to watch; type or tap a letter.", "देखने को कुछ नहीं है; कोई अक्षर टाइप करें या चुनें।"],
  unknown: ["Only the letters that are shown can be watched, not {0}.", "केवल दिखाए गए अक्षर देखे जा सकते हैं, {0} नहीं।"],
  many: ["That is more than {0} letters; take fewer.", "ये {0} से अधिक अक्षर हैं; कम अक्षर चुनें।"],
  none: ["None of the models that are served works in steps.", "परोसे गए मॉडलों में कोई भी चरणों में काम नहीं करता।"],
});

export const watch = { name: "watch", needsServer: true, create: (context: Context): View => new Watch(context) };
