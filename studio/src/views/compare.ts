// Compare: the same letters and seeds by several versions, their scorecards, and a test of whether people tell them from real ones.
import { Control, labelled, make, picture, spoken, task, wholeNumber } from "../dom";
import { Glyph, GlyphRequest, Model, ServerEngine, Version } from "../engine";
import { glyphsOf, letterRows, modelSelect, preferred, split } from "../models";
import { addTexts, currentLanguage, t } from "../texts";
import { Context, View } from "../view";

const MOST = 4; // versions side by side
const ROW = 8; // letters in a row of the blind test
const DEFAULTS = { seed: "7", count: "3" };
// What a scorecard is shown by; `least` is better, or the most is.
const FIGURES: { name: string; format: Intl.NumberFormatOptions; least?: true }[] = [
  { name: "fid_ratio", format: { maximumFractionDigits: 2 }, least: true },
  { name: "label_agreement", format: { style: "percent", maximumFractionDigits: 1 } },
  { name: "usefulness", format: { style: "percent", maximumFractionDigits: 1 } },
];

interface Answers { n: number; right: number }

// Wilson's interval of a share, at 95%.
export function wilson({ n, right }: Answers): [low: number, high: number] {
  const z = 1.959964, share = right / n, scale = 1 + z ** 2 / n, middle = share + z ** 2 / (2 * n);
  const half = z * Math.sqrt((share * (1 - share)) / n + z ** 2 / (4 * n ** 2));
  return [(middle - half) / scale, (middle + half) / scale];
}

const number = (value: number, format: Intl.NumberFormatOptions): string => value.toLocaleString(currentLanguage(), format);
const percent = (value: number): string => number(value, { style: "percent" });

function nameOf({ version, aliases, variant }: Version): string {
  if (!version) return t("compare.served", variant ?? "");
  return `${version} (${[...aliases, ...(variant ? [variant] : [])].join(", ")})`;
}

interface Column { element: HTMLElement; select: HTMLSelectElement; write(asked: GlyphRequest): Promise<void> }

class Compare implements View {
  private readonly engine: ServerEngine;
  private readonly model: HTMLSelectElement;
  private readonly letters = make("input", { id: "compare-letters", name: "labels", maxLength: 100, autocomplete: "off", autocapitalize: "off", spellcheck: false });
  private readonly seed = make("input", { id: "compare-seed", name: "seed", type: "number", min: "0", value: DEFAULTS.seed });
  private readonly count = make("input", { id: "compare-count", name: "n", type: "number", min: "1", max: "8", value: DEFAULTS.count });
  private readonly status = make("p", { id: "compare-status", role: "status" });
  private readonly place = make("div", { className: "columns" });
  private readonly add = make("button", { type: "button", textContent: t("compare.add") });
  private readonly note = make("p", { className: "quiet" });
  private readonly figures = make("div");
  private readonly blind: Blind;
  readonly element: HTMLElement;
  private versions: Version[] = [];
  private columns: Column[] = [];
  private offered = "";
  private made = 0; // columns so far, for their ids
  private readonly load: (wanted?: string[]) => Promise<void>;
  private readonly writeAll: () => Promise<void>;

  constructor(private readonly context: Context) {
    this.engine = context.engine as ServerEngine;
    this.model = modelSelect("compare-model", context.models, preferred(context.models).dataset);
    this.blind = new Blind(this.engine);
    const controls: Control[] = [this.model, this.letters, this.seed, this.count];
    this.load = task(this.status, controls, t("compare.looking"), (signal, wanted) => this.look(signal, wanted));
    this.writeAll = task(this.status, controls, t("compare.writing"), async () => {
      const asked = this.request();
      this.remember();
      await Promise.all(this.columns.map((one) => one.write(asked)));
      return "";
    });
    const form = make("form", { className: "options", noValidate: true }, labelled(t("compare.model"), this.model), labelled(t("compare.letters"), this.letters),
      labelled(t("compare.seed"), this.seed), labelled(t("compare.count"), this.count));
    form.append(make("button", { className: "primary", textContent: t("compare.go") }));
    this.element = make("div", { className: "view compare" }, form, this.status, make("div", { className: "beside" }, this.place, this.figures),
      make("div", { className: "row" }, this.add), this.note, this.blind.element);

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.writeAll();
    });
    for (const one of [this.letters, this.seed, this.count]) one.addEventListener("change", () => void this.writeAll());
    this.model.addEventListener("change", () => {
      this.offer();
      this.columns = [];
      void this.load();
    });
    this.add.addEventListener("click", () => {
      const shown = this.columns.map((one) => one.select.value);
      this.columns.push(this.column(this.versions.find((one) => !shown.includes(one.version)) ?? this.versions[0]!));
      this.arrange();
      this.columns.at(-1)!.select.focus();
      void this.writeAll();
    });
    this.offer();
  }

  show(params: URLSearchParams): void {
    const wanted = params.get("model");
    if (wanted && wanted !== this.model.value && this.context.models.some((one) => one.dataset === wanted)) {
      this.model.value = wanted;
      this.columns = [];
      this.offer();
    }
    for (const [name, control] of Object.entries({ letters: this.letters, seed: this.seed, count: this.count })) {
      const value = params.get(name);
      if (value !== null) control.value = value;
    }
    void this.load(params.get("versions")?.split(","));
  }

  private get current(): Model {
    return this.context.models.find((one) => one.dataset === this.model.value)!;
  }

  // A letter of each row of the alphabet, unless others were typed.
  private offer(): void {
    const own = letterRows(this.current), untouched = this.letters.value === this.offered;
    this.offered = (own.length >= 3 ? own.map((row) => row[0]!) : own.flat()).slice(0, ROW).join(" ");
    if (untouched) this.letters.value = this.offered;
    this.letters.lang = /[ऀ-ॿ]/.test(this.letters.value) ? "hi" : "en";
  }

  private async look(signal: AbortSignal, wanted?: string[]): Promise<string> {
    this.versions = await this.engine.versions(this.model.value, signal);
    const known = (version: string): Version | undefined => this.versions.find((one) => one.version === version);
    const usual = ["champion", "challenger"].flatMap((alias) => this.versions.filter((one) => one.aliases.includes(alias)));
    const chosen = (wanted ?? this.columns.map((one) => one.select.value)).map(known).filter((one) => one !== undefined);
    const shown = chosen.length ? chosen.slice(0, MOST) : [...new Set([...usual, ...this.versions])].slice(0, Math.max(2, new Set(usual).size));
    this.columns = shown.map((version) => this.column(version));
    this.note.textContent = this.versions.length > 1 ? "" : t("compare.alone");
    this.blind.offer(this.current, this.versions);
    this.arrange();
    await this.writeAll();
    return "";
  }

  private column(chosen: Version): Column {
    const select = make("select", { id: `compare-version-${++this.made}`, name: "version" }), glyphs = make("div", { className: "glyphs" });
    fill(select, this.versions, chosen.version);
    const link = make("p"), state = make("p", { className: "quiet" }), remove = make("button", { type: "button", className: "plain", textContent: t("compare.remove") });
    const write = task(state, [select], t("compare.writing"), async (signal, asked: GlyphRequest) => {
      glyphs.replaceChildren(...stacks(await this.engine.glyphs({ ...asked, version: select.value || undefined }, signal), asked.n));
      return "";
    });
    const element = make("section", {}, labelled(t("compare.of"), select), state, glyphs, make("div", { className: "row" }, link, remove));
    const describe = (): void => {
      const version = this.versions.find((one) => one.version === select.value)!;
      element.ariaLabel = nameOf(version);
      remove.ariaLabel = t("compare.removeThis", nameOf(version));
      link.replaceChildren(...(version.url ? [make("a", { href: version.url, target: "_blank", rel: "noreferrer", textContent: t("compare.mlflow", version.version) })] : []));
    };
    const column = { element, select, write };
    select.addEventListener("change", () => {
      describe();
      this.arrange();
      void this.writeAll();
    });
    remove.addEventListener("click", () => {
      this.columns = this.columns.filter((one) => one !== column);
      this.arrange();
      this.add.focus();
      this.remember();
    });
    describe();
    return column;
  }

  private arrange(): void {
    const elements = this.columns.map((one) => one.element);
    for (const one of [...this.place.children]) if (!elements.includes(one as HTMLElement)) one.remove();
    elements.forEach((one, i) => this.place.children[i] === one || this.place.append(one)); // what is there keeps its focus
    for (const one of this.place.querySelectorAll<HTMLElement>("button")) one.hidden = elements.length < 2;
    this.add.hidden = elements.length >= Math.min(MOST, this.versions.length);
    const chosen = this.columns.map((column) => this.versions.find((one) => one.version === column.select.value)!);
    this.figures.replaceChildren(...scorecards(chosen));
  }

  private request(): GlyphRequest {
    const labels = split(this.current, this.letters, "compare.unknown");
    return {
      model: this.model.value, labels: labels.length ? labels : this.offered.split(" "),
      n: wholeNumber(this.count, t("compare.count")), seed: wholeNumber(this.seed, t("compare.seed")),
    };
  }

  private remember(): void {
    const unless = (value: string, usual: string): string | undefined => (value === usual ? undefined : value);
    this.context.remember({
      model: unless(this.model.value, preferred(this.context.models).dataset),
      versions: this.columns.map((one) => one.select.value).join(",") || undefined,
      letters: unless(this.letters.value, this.offered),
      seed: unless(this.seed.value, DEFAULTS.seed),
      count: unless(this.count.value, DEFAULTS.count),
    });
  }
}

// Which of two rows is real? What is answered is counted for each version while the page is open.
class Blind {
  private readonly version = make("select", { id: "blind-version", name: "version" });
  private readonly begin = make("button", { type: "button", className: "primary", textContent: t("compare.begin") });
  private readonly state = make("p", { className: "quiet" });
  private readonly said = make("p", { id: "verdict", role: "status" });
  private readonly strips = [make("div", { className: "strip" }), make("div", { className: "strip" })];
  private readonly rows = make("div", { className: "rows", hidden: true, role: "group", ariaLabel: t("compare.which") });
  private readonly before = make("div", { className: "rows" });
  private readonly counts = make("div");
  private readonly answers = new Map<string, Answers & { model: string; version: Version }>();
  private model: Model | undefined;
  private versions: Version[] = [];
  private question: { version: Version; model: string; real: number; pair: Glyph[][] } | undefined;
  readonly element: HTMLElement;
  private readonly ask: () => Promise<void>;

  constructor(private readonly engine: ServerEngine) {
    this.ask = task(this.state, [this.version], t("compare.fetching"), (signal) => this.fetch(signal));
    const pairs = this.strips.map((strip, i) => {
      const button = make("button", { type: "button", textContent: t("compare.row", i + 1) });
      button.addEventListener("click", () => this.answer(i));
      return make("div", { className: "pair" }, strip, button);
    });
    this.rows.append(...pairs);
    this.element = make("section", { className: "blind", ariaLabel: t("compare.which") }, make("h2", { textContent: t("compare.which") }),
      make("p", { className: "quiet", textContent: t("compare.rules") }), make("div", { className: "row" }, labelled(t("compare.of"), this.version), this.begin),
      this.state, this.rows, this.said, this.before, this.counts);
    this.begin.addEventListener("click", async () => {
      await this.ask();
      if (this.question) this.rows.querySelector("button")!.focus();
    });
    this.version.addEventListener("change", () => this.begin.hidden && void this.restart());
    this.element.addEventListener("keydown", (event) => {
      if (event.target !== this.version && /^[12]$/.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) this.answer(Number(event.key) - 1);
    });
  }

  // The versions to choose among; another model begins anew.
  offer(model: Model, versions: Version[]): void {
    const kept = this.version.value, other = model !== this.model;
    [this.model, this.versions] = [model, versions];
    fill(this.version, versions, versions.some((one) => one.version === kept) ? kept : versions.find((one) => one.aliases.includes("champion"))?.version ?? "");
    if (other || this.version.value !== kept) this.end();
  }

  private end(): void {
    this.question = undefined;
    this.rows.hidden = true;
    this.begin.hidden = false;
    this.said.textContent = "";
    this.before.replaceChildren();
  }

  private async restart(): Promise<void> {
    this.end();
    await this.ask();
  }

  private async fetch(signal: AbortSignal): Promise<string> {
    this.question = undefined;
    const model = this.model!.dataset, version = this.versions.find((one) => one.version === this.version.value)!;
    const asked = { model, labels: sample(glyphsOf(this.model!), ROW), n: 1, seed: Math.floor(Math.random() * 2 ** 31) };
    const [real, written] = await Promise.all([this.engine.real(asked, signal), this.engine.glyphs({ ...asked, version: version.version || undefined }, signal)]);
    const place = Math.random() < 0.5 ? 0 : 1, pair = place ? [written, real] : [real, written];
    pair.forEach((glyphs, i) => this.strips[i]!.replaceChildren(...glyphs.map((one) => picture(one.src, one.glyph))));
    this.question = { version, model, real: place, pair };
    this.rows.hidden = false;
    this.begin.hidden = true;
    return "";
  }

  private answer(row: number): void {
    if (!this.question) return;
    const { model, version, real, pair } = this.question, key = `${model} ${version.version}`;
    const counted = this.answers.get(key) ?? { n: 0, right: 0, model, version };
    counted.n += 1;
    if (row === real) counted.right += 1;
    this.answers.set(key, counted);
    this.said.textContent = t(row === real ? "compare.right" : "compare.wrong", real + 1);
    const shown = pair.map((glyphs, i) => make("div", { className: "pair" }, make("div", { className: "strip" }, ...glyphs.map((one) => picture(one.src, one.glyph))),
      spoken(t(i === real ? "compare.real" : "compare.generated"))));
    this.before.replaceChildren(make("h3", { textContent: t("compare.before") }), ...shown);
    this.counts.replaceChildren(...this.tally());
    void this.ask();
  }

  private tally(): HTMLElement[] {
    const rows = [...this.answers.values()].map((one) => {
      const [low, high] = wilson(one), meaning = low > 0.5 ? "told" : high < 0.5 ? "fooled" : "open";
      const cells = [String(one.n), percent(one.right / one.n), t("compare.range", percent(low), percent(high)), t(`compare.${meaning}`)];
      return make("tr", {}, make("th", { scope: "row", textContent: `${one.model}, ${nameOf(one.version)}` }), ...cells.map((textContent) => make("td", { textContent })));
    });
    const heads = ["of", "answers", "share", "interval", "meaning"].map((name) => make("th", { scope: "col", textContent: t(`compare.${name}`) }));
    return [scrolled(t("compare.yours"), make("tr", {}, ...heads), rows), make("p", { className: "quiet", textContent: t("compare.half") })];
  }
}

function fill(select: HTMLSelectElement, versions: Version[], chosen: string): void {
  select.replaceChildren(...versions.map((one) => make("option", { value: one.version, textContent: nameOf(one), selected: one.version === chosen })));
}

// The n images of each letter one below the other.
function stacks(glyphs: Glyph[], n: number): HTMLElement[] {
  const starts = glyphs.map((_, i) => i).filter((i) => i % n === 0);
  return starts.map((i) => make("figure", {}, ...glyphs.slice(i, i + n).map((one) => picture(one.src, "")), spoken(glyphs[i]!.glyph, "figcaption")));
}

// `n` of the values at random, or all.
function sample(values: string[], n: number): string[] {
  return values.map((value) => ({ value, place: Math.random() })).sort((a, b) => a.place - b.place).slice(0, n).map((one) => one.value);
}

// A table that scrolls by itself where it is too wide, also with arrow keys.
function scrolled(caption: string, heads: HTMLElement, rows: HTMLElement[]): HTMLElement {
  const table = make("table", {}, make("caption", { textContent: caption }), make("thead", {}, heads), make("tbody", {}, ...rows));
  return make("div", { className: "scrolled", tabIndex: 0, role: "region", ariaLabel: caption }, table);
}

function scorecards(versions: Version[]): HTMLElement[] {
  const known = FIGURES.filter(({ name }) => versions.some((one) => typeof one.figures[name] === "number"));
  if (!known.length) return [make("p", { className: "quiet", textContent: t("compare.unscored") })];
  const rows = known.map(({ name, format, least }) => {
    const values = versions.map((one) => one.figures[name] ?? null), there = values.filter((one) => one !== null), best = least ? Math.min(...there) : Math.max(...there);
    const cells = values.map((value) => {
      if (value === null) return make("td", {}, "–");
      const text = number(value, format), wins = value === best && there.some((one) => one !== best);
      return make("td", {}, ...(wins ? [make("b", { textContent: text }), " ", make("span", { className: "best", textContent: t("compare.best") })] : [text]));
    });
    return make("tr", {}, make("th", { scope: "row" }, t(`compare.${name}`), make("small", { textContent: t(least ? "compare.less" : "compare.more") })), ...cells);
  });
  const heads = versions.map((one) => make("th", { scope: "col", textContent: one.version ? t("compare.short", one.version) : nameOf(one) }));
  return [scrolled(t("compare.scorecards"), make("tr", {}, make("td"), ...heads), rows)];
}

addTexts("compare", {
  title: ["Compare", "तुलना"],
  model: ["Model", "मॉडल"],
  letters: ["Letters", "अक्षर"],
  seed: ["Seed", "बीज संख्या"],
  count: ["Images of each letter", "हर अक्षर के चित्र"],
  go: ["Write", "लिखें"],
  of: ["Version", "संस्करण"],
  short: ["Version {0}", "संस्करण {0}"],
  served: ["the served model ({0})", "परोसा जा रहा मॉडल ({0})"],
  add: ["Add a version", "एक और संस्करण जोड़ें"],
  remove: ["Remove", "हटाएँ"],
  removeThis: ["Remove version {0}", "संस्करण {0} हटाएँ"],
  mlflow: ["Version {0} in MLflow", "MLflow में संस्करण {0}"],
  looking: ["Looking for versions …", "संस्करण खोजे जा रहे हैं …"],
  writing: ["Writing …", "लिखा जा रहा है …"],
  alone: ["There is one version alone; run `dvc repro` and `lekhani register` for more, and serve what is registered with `lekhani serve`.",
    "केवल एक ही संस्करण है; और संस्करणों के लिए `dvc repro` और `lekhani register` चलाएँ, फिर `lekhani serve` से उन्हें परोसें।"],
  unknown: ["The model has not learned {0}; take letters that it knows.", "मॉडल ने {0} नहीं सीखा है; वे अक्षर लें जो उसे आते हैं।"],
  scorecards: ["Scorecards", "अंकपत्र"],
  unscored: ["No scorecard is known of these versions; `lekhani register` keeps one with each.", "इन संस्करणों का कोई अंकपत्र नहीं है; `lekhani register` हर संस्करण के साथ एक रखता है।"],
  best: ["best", "सर्वोत्तम"],
  less: ["less is better", "कम बेहतर"],
  more: ["more is better", "अधिक बेहतर"],
  fid_ratio: ["FID, in multiples of real images’", "FID, असली चित्रों के FID के गुणजों में"],
  label_agreement: ["Read as asked for", "माँगा गया अक्षर पढ़ा गया"],
  usefulness: ["Accuracy of OCR trained on it", "इससे सीखे OCR की सटीकता"],
  which: ["Which row is real?", "कौन-सी पंक्ति असली है?"],
  rules: ["One row was written by people, the other by the model: the same letters, in random order. The keys 1 and 2 answer too.",
    "एक पंक्ति लोगों ने लिखी है, दूसरी मॉडल ने: वही अक्षर, क्रम यादृच्छिक। कुंजी 1 और 2 से भी उत्तर दे सकते हैं।"],
  begin: ["Begin", "शुरू करें"],
  fetching: ["Fetching two rows …", "दो पंक्तियाँ लाई जा रही हैं …"],
  row: ["Row {0} is real", "पंक्ति {0} असली है"],
  right: ["Right: row {0} was real.", "सही: पंक्ति {0} असली थी।"],
  wrong: ["Wrong: row {0} was real.", "ग़लत: पंक्ति {0} असली थी।"],
  before: ["The rows you judged last", "पिछली पंक्तियाँ"],
  real: ["real", "असली"],
  generated: ["written by the model", "मॉडल की लिखी"],
  yours: ["Your answers", "आपके उत्तर"],
  answers: ["Answers", "उत्तर"],
  share: ["Right", "सही"],
  interval: ["95% interval", "95% अंतराल"],
  range: ["{0} to {1}", "{0} से {1}"],
  meaning: ["Meaning", "अर्थ"],
  told: ["you tell them apart", "आप दोनों में अंतर पहचान लेते हैं"],
  fooled: ["you take the model’s for real", "आप मॉडल की लिखावट को असली समझते हैं"],
  open: ["may be guessing", "शायद केवल अनुमान"],
  half: ["50% means that nobody can tell them apart. The counts last until the page is closed.", "50% का अर्थ है कि कोई अंतर नहीं पहचान सकता। गिनती पृष्ठ बंद होने तक रहती है।"],
});

export const compare = { name: "compare", needsServer: true, create: (context: Context): View => new Compare(context) };
