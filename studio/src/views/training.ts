// Training: how far the trainings of this project are, with their newest samples and their curves.
import { lineChart, Points, pointTable } from "../chart";
import { make } from "../dom";
import { Refusal, ServerEngine, Training as Run } from "../engine";
import { addTexts, currentLanguage, t } from "../texts";
import { Context, View } from "../view";

const EVERY = 5000; // milliseconds

const precise = (value: number): string => value.toLocaleString(currentLanguage(), { maximumSignificantDigits: 4 });
const whole = (value: number): string => value.toLocaleString(currentLanguage());

class Training implements View {
  private readonly engine: ServerEngine;
  private readonly status = make("p", { id: "training-status", role: "status", textContent: t("training.looking") });
  private readonly cards = make("div", { className: "cards" });
  readonly element = make("div", { className: "view training" }, make("p", { className: "quiet", textContent: t("training.refreshed") }), this.status, this.cards);
  private readonly known = new Map<string, Card>();
  private open: AbortController | undefined; // while the view is shown and the tab seen
  private readonly watch = (): void => this.follow(!document.hidden);

  constructor(context: Context) {
    this.engine = context.engine as ServerEngine;
  }

  show(): void {
    document.addEventListener("visibilitychange", this.watch);
    this.watch();
  }

  hide(): void {
    document.removeEventListener("visibilitychange", this.watch);
    this.follow(false);
  }

  private follow(wanted: boolean): void {
    if (wanted === Boolean(this.open)) return;
    this.open?.abort();
    this.open = wanted ? new AbortController() : undefined;
    if (this.open) void this.refresh(this.open.signal);
  }

  private async refresh(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        const runs = await this.engine.trainings(signal);
        if (!signal.aborted) this.draw(runs);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Refusal)) throw error;
        this.say(error.message); // what is on the page stays, and the next time may do
      }
      await new Promise((done) => setTimeout(done, EVERY));
    }
  }

  private draw(runs: Run[]): void {
    this.say(runs.length ? "" : t("training.none"));
    const names = runs.map((one) => `${one.dataset} ${one.variant}`);
    for (const [name, card] of this.known) {
      if (names.includes(name)) continue;
      card.element.remove();
      this.known.delete(name);
    }
    runs.forEach((run, i) => {
      const card = this.known.get(names[i]!) ?? new Card(run);
      this.known.set(names[i]!, card);
      card.update(run);
      if (!card.element.isConnected) this.cards.append(card.element);
    });
  }

  private say(text: string): void {
    if (this.status.textContent !== text) this.status.textContent = text; // a screen reader says it once
  }
}

// A run; what is opened in it stays open when it is updated.
class Card {
  private readonly progress: HTMLProgressElement;
  private readonly seen = make("p");
  private readonly sign = make("p", { className: "quiet" });
  private readonly samples = make("div", { className: "samples scrolled", tabIndex: 0, role: "region" });
  private readonly newest = make("img");
  private readonly charts = make("div", { className: "charts" });
  private readonly curves = new Map<string, Curve>();
  readonly element: HTMLElement;

  constructor(run: Run) {
    const name = `${run.dataset}, ${run.variant}`;
    this.newest.alt = this.samples.ariaLabel = t("training.samples", name);
    this.samples.append(this.newest);
    this.progress = make("progress", { ariaLabel: t("training.progress", name) });
    this.element = make("section", { ariaLabel: name }, make("h2", { textContent: name, lang: "en" }), this.progress, this.seen, this.sign, this.samples, this.charts);
  }

  update(run: Run): void {
    const { images_seen: seen, total } = run;
    this.progress.hidden = total === null;
    if (total === null) this.seen.textContent = t("training.soFar", whole(seen));
    else {
      [this.progress.max, this.progress.value] = [Math.max(total, 1), seen];
      this.seen.textContent = t("training.seen", whole(seen), whole(total), (seen / Math.max(total, 1)).toLocaleString(currentLanguage(), { style: "percent" }));
    }
    const when = make("time", { dateTime: run.updated, textContent: ago(run.updated), title: new Date(run.updated).toLocaleString(currentLanguage()) });
    this.sign.replaceChildren(t(run.running ? "training.running" : "training.still"), " ", when);
    this.samples.hidden = run.grid === null;
    if (run.grid) this.newest.src = `data:image/png;base64,${run.grid}`;
    for (const [name, points] of Object.entries(run.curves)) {
      if (!points.length) continue;
      const curve = this.curves.get(name) ?? new Curve(name);
      if (!this.curves.has(name)) this.charts.append(curve.element);
      this.curves.set(name, curve);
      curve.update(points);
    }
  }
}

class Curve {
  private readonly place = make("div");
  private readonly now = make("b");
  private readonly table = make("div", { className: "scrolled" });
  readonly element: HTMLElement;

  constructor(private readonly name: string) {
    const details = make("details", {}, make("summary", { textContent: t("training.table") }), this.table);
    this.element = make("div", { className: "curve" }, make("h3", {}, make("span", { lang: "en", textContent: name }), " ", this.now), this.place, details);
  }

  update(points: Points): void {
    const [seen, value] = points.at(-1)!, from = points[0]!;
    this.now.textContent = precise(value);
    this.place.replaceChildren(lineChart(t("training.chart", this.name, precise(from[1]), whole(from[0]), precise(value), whole(seen)), t("training.images"), points, precise));
    this.table.replaceChildren(pointTable([t("training.images"), this.name], points, precise));
  }
}

// How long ago a time is, in words.
function ago(time: string): string {
  const seconds = (Date.now() - Date.parse(time)) / 1000, words = new Intl.RelativeTimeFormat(currentLanguage(), { numeric: "auto" });
  const units: [Intl.RelativeTimeFormatUnit, number][] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["second", 1];
  return words.format(-Math.max(0, Math.floor(seconds / size)), unit);
}

addTexts("training", {
  title: ["Training", "प्रशिक्षण"],
  looking: ["Looking for trainings …", "प्रशिक्षण खोजे जा रहे हैं …"],
  refreshed: ["The trainings of this project, looked at again every 5 seconds.", "इस परियोजना के प्रशिक्षण; हर 5 सेकंड में ताज़ा किए जाते हैं।"],
  none: ["Nothing has been trained in this folder; run `dvc repro`, or `lekhani train --dataset devanagari --variant flow_matching`.",
    "इस फ़ोल्डर में कोई प्रशिक्षण नहीं हुआ है; `dvc repro` या `lekhani train --dataset devanagari --variant flow_matching` चलाएँ।"],
  progress: ["Progress of {0}", "{0} की प्रगति"],
  seen: ["{0} of {1} images ({2})", "{1} में से {0} चित्र ({2})"],
  soFar: ["{0} images so far", "अब तक {0} चित्र"],
  running: ["Running; last sign of life:", "चल रहा है; पिछला संकेत:"],
  still: ["Not running; last sign of life:", "नहीं चल रहा है; पिछला संकेत:"],
  samples: ["Newest samples of {0}", "{0} के नवीनतम नमूने"],
  table: ["As a table", "तालिका"],
  images: ["images seen", "देखे गए चित्र"],
  chart: ["{0}: from {1} at {2} images to {3} at {4} images", "{0}: {2} चित्रों पर {1} से {4} चित्रों पर {3} तक"],
});

export const training = { name: "training", needsServer: true, create: (context: Context): View => new Training(context) };
