// The engine of the static edition: generators and judges run in the browser itself.
import { Engine, ExploreRequest, FileKind, Glyph, GlyphRequest, LineRequest, Lines, Model, Reading, Refusal, Translation, Written } from "../engine";
import { isDigit } from "../models";
import { addTexts, t } from "../texts";
import { FONT, writeLine } from "./compose";
import { Grid, grid, resized } from "./grid";
import { InkError, readGlyph, readRow, softmax } from "./ink";
import { drawnOf, labelOf, Piece, pieces, transcript } from "./letters";
import { mixed, Random } from "./noise";
import type { Answer, Result, Task } from "./worker";
import { zipped } from "./zip";

// What models.json says of a model, beyond what the server would.
interface Shipped extends Model { noise_dim: number; generator: string; judge: string }

const HERE = new URL(".", import.meta.url).href;
const MAX_IMAGES = 2000; // of one request
const MAX_TEXT = 200; // characters of a line
const MAX_TRIES = 30; // for a glyph that the judge does not accept
const VARIETY = 0.3; // of the digits of a number that is written again
const MIN_WRITTEN = 0.95; // confidence of the judge in such a digit
const MIN_LINE = 0.5; // and in a glyph of a line
const SIDE = 1024; // larger pictures are shrunk to this

// The page lets no text become the address of a script, but for this one.
const { trustedTypes } = globalThis as { trustedTypes?: { createPolicy(name: string, rules: object): { createScriptURL(from: string): unknown } } };
const WORKER = `${HERE}worker.js`;
const SCRIPT = (trustedTypes?.createPolicy("lekhani", { createScriptURL: () => WORKER }).createScriptURL(WORKER) ?? WORKER) as string;

export class LocalEngine implements Engine {
  readonly edition = "static";
  readonly fileKinds: FileKind[] = ["png", "zip"];
  private readonly worker = new Worker(SCRIPT, { type: "module" });
  private task: { resolve(result: Result): void; reject(error: Error): void } | undefined; // of the worker
  private fault: Refusal | undefined;
  private last: Promise<unknown> = Promise.resolve(); // the end of all tasks so far
  private readonly known: Promise<Map<string, Shipped>>;

  constructor() {
    this.worker.addEventListener("message", ({ data }: MessageEvent<Answer>) => {
      if ("error" in data) this.task?.reject(new Refusal(t("local.broken", data.error)));
      else this.task?.resolve(data);
    });
    this.worker.addEventListener("error", (event) => {
      this.fault = new Refusal(t("local.broken", event.message ?? "")); // it has not even begun
      this.task?.reject(this.fault);
    });
    this.known = this.load();
    this.known.catch(() => undefined); // whoever asks for it hears of it
  }

  async models(): Promise<Model[]> {
    return [...(await this.known).values()];
  }

  async glyphs({ model, labels, n, seed, min_confidence, truncation }: GlyphRequest, signal?: AbortSignal): Promise<Glyph[]> {
    const pen = await this.model(model), wanted = labels.flatMap((label) => Array<number>(n).fill(this.label(pen, label))), rng = new Random(seed);
    this.limit(wanted.length);
    const noise = (): Float32Array => (truncation ? rng.truncated(pen.noise_dim, truncation) : rng.normals(pen.noise_dim));
    return shown(await this.accepted(pen, wanted, noise, min_confidence ?? 0, signal), wanted, pen);
  }

  async explore({ model, points }: ExploreRequest, signal?: AbortSignal): Promise<Glyph[]> {
    const pen = await this.model(model), weighs = points.every(({ mix }) => Object.values(mix).every(Number.isFinite) && Object.values(mix).some(Boolean));
    if (!weighs) throw new Refusal(t("local.noWeight"), "points");
    const labels = points.map(({ label }) => this.label(pen, label));
    this.limit(labels.length);
    return shown(await this.draw(pen, points.map(({ mix }) => mixed(mix, pen.noise_dim)), labels, signal), labels, pen);
  }

  async lines(request: LineRequest, signal?: AbortSignal): Promise<Lines> {
    const { text, drawn, canvases } = await this.write(request, signal);
    return { text, drawn, lines: canvases.map((canvas, i) => ({ seed: request.seed + i, src: canvas.toDataURL() })) };
  }

  async recognise({ model, image, force }: { model: string; image: string; force?: boolean }, signal?: AbortSignal): Promise<Reading> {
    const judge = await this.model(model), picture = await decoded(image);
    const read = await understood(() => readGlyph(picture, frameOf(judge), (frames) => this.judge(judge, frames, signal)));
    const reading = readings(read.shares, judge)[0]!;
    if (!force && read.count > 1) {
      const parts = readings(read.several, judge);
      throw new Refusal(t("local.several", read.count), "image", [reading], { reason: "several", glyphs: read.count, parts });
    }
    if (!force && reading.confidence < read.needed) {
      throw new Refusal(t("local.unsure", said(reading), percent(read.needed)), "image", [reading], { reason: "unsure", glyphs: 1 });
    }
    return reading;
  }

  async translate(
    { model, to, image, seed, force }: { model: string; to: string; image: string; seed: number; force?: boolean }, signal?: AbortSignal,
  ): Promise<Translation> {
    const judge = await this.model(model), pen = await this.model(to), picture = await decoded(image);
    const areDigits = judge.classes.map(({ glyph }) => isDigit(glyph));
    if (!areDigits.includes(true)) throw new Refusal(t("local.noDigits", model));
    const read = await understood(() => readRow(picture, frameOf(judge), (frames) => this.judge(judge, frames, signal)));
    const among = read.shares.map((shares) => shares.map((share, label) => (areDigits[label] ? share : 0)));
    const likely = among.map((shares) => shares.reduce((a, b) => a + b, 0));
    const digits = readings(among.map((shares, i) => shares.map((share) => share / likely[i]!)), judge);
    for (const [place, digit] of digits.entries()) {
      if (force || (likely[place]! >= 0.5 && digit.confidence >= read.needed)) continue;
      const where = digits.length > 1 ? t("local.glyphOf", place + 1, digits.length) : t("local.theImage");
      const whole = readings([read.shares[place]!], judge)[0]!;
      const why = likely[place]! < 0.5 ? t("local.noDigit", where, `${whole.glyph} ${percent(whole.confidence)}`) : t("local.unsureDigit", where, said(digit));
      throw new Refusal(why, "image", digits, { reason: "unsure", glyphs: digits.length });
    }
    const labels = digits.map((digit) => this.label(pen, digit.glyph));
    const images = await this.hand(pen, labels, new Random(seed), VARIETY, MIN_WRITTEN, signal);
    return { read: digits.map(({ glyph }) => glyph).join(""), digits, images: shown(images, labels, pen) };
  }

  async save({ route, body }: Written, kind: FileKind, signal?: AbortSignal): Promise<Blob> {
    if (route === "compose") {
      const { text, canvases } = await this.write(body, signal);
      if (kind === "png") return blobOf(stacked(canvases));
      return zipped(new Map(canvases.flatMap((canvas, i) => {
        const name = `line_${numbered(i)}`;
        return [[`${name}.png`, bytesOf(canvas.toDataURL())], [`${name}.gt.txt`, new TextEncoder().encode(`${text}\n`)]] as const;
      })));
    }
    const glyphs = await this.glyphs(body, signal), pen = await this.model(body.model);
    if (kind === "png") return blobOf(await sheet(glyphs, pen.image_size));
    const rows = glyphs.map(({ glyph }, i) => {
      const known = pen.classes.find((one) => one.glyph === glyph)!;
      return `${numbered(i)}.png,${known.label},${known.name},${known.glyph}\n`;
    });
    const table = new TextEncoder().encode(`file,label,name,glyph\n${rows.join("")}`);
    return zipped(new Map([["labels.csv", table], ...glyphs.map(({ src }, i) => [`${numbered(i)}.png`, bytesOf(src)] as const)]));
  }

  // --- models ---

  private async load(): Promise<Map<string, Shipped>> {
    const models = await fetch(`${HERE}models.json`).then((answer) => (answer.ok ? (answer.json() as Promise<Shipped[]>) : Promise.reject(new Error(String(answer.status)))))
      .catch((error: Error) => Promise.reject(new Refusal(t("local.broken", error.message))));
    return new Map(models.map((model) => [model.dataset, model]));
  }

  private async model(dataset: string): Promise<Shipped> {
    const known = await this.known, found = known.get(dataset);
    if (!found) throw new Refusal(t("local.noModel", dataset, [...known.keys()].join(", ")), "model");
    return found;
  }

  private label(pen: Shipped, wanted: string): number {
    const label = labelOf(wanted, pen.classes);
    if (label === undefined) throw new Refusal(t("local.noLabel", wanted, pen.classes.map(({ glyph }) => glyph).join(" ")), "labels");
    return label;
  }

  private limit(images: number): void {
    if (images > MAX_IMAGES) throw new Refusal(t("local.tooMany", images, MAX_IMAGES), "n");
  }

  // Tasks wait here for their turn, so that one whose signal ends before it is never begun.
  private run(task: Task, signal?: AbortSignal): Promise<Result> {
    const turn = this.last.then(() => {
      signal?.throwIfAborted();
      if (this.fault) throw this.fault;
      return new Promise<Result>((resolve, reject) => {
        this.task = { resolve, reject };
        this.worker.postMessage(task);
      });
    });
    this.last = turn.catch(() => undefined);
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      turn.then(resolve, reject);
    });
  }

  // Images from 0 to 1, white on black.
  private async draw(pen: Shipped, noise: Float32Array[], labels: number[], signal?: AbortSignal): Promise<Grid[]> {
    if (!labels.length) return [];
    const rows = new Float32Array(labels.length * pen.noise_dim);
    noise.forEach((row, i) => rows.set(row, i * pen.noise_dim));
    const result = await this.run({ kind: "draw", file: HERE + pen.generator, noise: rows, labels, dim: pen.noise_dim }, signal);
    return "images" in result ? split(result.images, pen.image_size ** 2).map((data) => grid(pen.image_size, pen.image_size, data)) : [];
  }

  private async judge(model: Shipped, frames: Float32Array[], signal?: AbortSignal): Promise<Float64Array[]> {
    const side = model.image_size, images = new Float32Array(frames.length * side ** 2);
    frames.forEach((frame, i) => images.set(frame, i * side ** 2));
    const result = await this.run({ kind: "read", file: HERE + model.judge, images, side }, signal);
    return "logits" in result ? split(result.logits, model.classes.length).map((row) => Float64Array.from(row)) : [];
  }

  // --- writing ---

  // An image of each label; what the judge is not so sure of is drawn again, with other noise.
  private async accepted(pen: Shipped, labels: number[], noise: (place: number, attempt: number) => Float32Array, least: number, signal?: AbortSignal): Promise<Grid[]> {
    const images: Grid[] = [];
    let missing = labels.map((_, place) => place);
    for (let attempt = 0; attempt < MAX_TRIES; attempt++) {
      const drawn = await this.draw(pen, missing.map((place) => noise(place, attempt)), missing.map((place) => labels[place]!), signal);
      missing.forEach((place, i) => (images[place] = drawn[i]!));
      if (!least || !missing.length) return images;
      const logits = await this.judge(pen, drawn.map(({ data }) => data.map((value) => Math.round(255 * Math.min(Math.max(value, 0), 1)) / 255)), signal);
      missing = missing.filter((place, i) => {
        const shares = softmax(logits[i]!), label = labels[place]!;
        return shares[label]! < least || shares.some((share) => share > shares[label]!);
      });
      if (!missing.length) return images;
    }
    const names = [...new Set(missing.map((place) => pen.classes[labels[place]!]!.glyph))].join(" ");
    throw new Refusal(t("local.unreadable", names, MAX_TRIES), "min_confidence");
  }

  // Glyphs in one hand: they share their noise but for `variety` of their own, and more with each try.
  private hand(pen: Shipped, labels: number[], rng: Random, variety: number, least: number, signal?: AbortSignal): Promise<Grid[]> {
    const hand = rng.normals(pen.noise_dim);
    const noise = (_: number, attempt: number): Float32Array => {
      const share = Math.min(variety + attempt / MAX_TRIES, 1), own = rng.normals(pen.noise_dim);
      return own.map((value, i) => Math.sqrt(1 - share ** 2) * hand[i]! + share * value);
    };
    return this.accepted(pen, labels, noise, least, signal);
  }

  private async write(request: LineRequest, signal?: AbortSignal): Promise<{ text: string; drawn: string[]; canvases: HTMLCanvasElement[] }> {
    const pen = await this.model(request.model), text = transcript(request.text, pen.classes);
    if (!text) throw new Refusal(t("local.empty"), "text");
    if (text.length > MAX_TEXT) throw new Refusal(t("local.tooLong", text.length, MAX_TEXT), "text");
    this.limit(text.length * request.n);
    const { pieces: all, unknown } = pieces(text, pen.classes), named = unknown.map((one) => (/^\p{Mark}/u.test(one) ? `◌${one}` : one));
    if (unknown.length) throw new Refusal(t("local.unknown", named.join(", ")), "text");
    const labels = all.flatMap((piece: Piece | null) => piece?.label ?? []), drawn = drawnOf(all), canvases: HTMLCanvasElement[] = [];
    if (drawn.length) await document.fonts.load(`40px "${FONT}"`, drawn.join(""));
    for (let seed = request.seed; seed < request.seed + request.n; seed++) {
      const rng = new Random(seed, 1), images = await this.hand(pen, labels, rng, request.variety, MIN_LINE, signal);
      canvases.push(writeLine(all, images, pen.image_size, rng, request));
    }
    return { text, drawn, canvases };
  }
}

// --- pictures ---

const split = (values: Float32Array, size: number): Float32Array<ArrayBuffer>[] => Array.from({ length: values.length / size }, (_, i) => Float32Array.from(values.subarray(i * size, (i + 1) * size)));

const numbered = (place: number): string => String(place).padStart(6, "0");

function shown(images: Grid[], labels: number[], pen: Shipped): Glyph[] {
  const board = canvasOf(pen.image_size, pen.image_size), pixels = board.createImageData(pen.image_size, pen.image_size);
  return images.map(({ data }, place) => {
    data.forEach((value, i) => pixels.data.fill(Math.round(255 * Math.min(Math.max(value, 0), 1)), 4 * i, 4 * i + 3).fill(255, 4 * i + 3, 4 * i + 4));
    board.putImageData(pixels, 0, 0);
    return { glyph: pen.classes[labels[place]!]!.glyph, src: board.canvas.toDataURL() };
  });
}

function canvasOf(width: number, height: number): CanvasRenderingContext2D {
  return Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true })!;
}

const bytesOf = (src: string): Uint8Array => Uint8Array.from(atob(src.split(",", 2)[1]!), (one) => one.charCodeAt(0));

const blobOf = (canvas: HTMLCanvasElement): Blob => new Blob([bytesOf(canvas.toDataURL()) as BlobPart], { type: "image/png" });

// Glyphs in a square, with a grey pixel between them.
async function sheet(glyphs: Glyph[], side: number): Promise<HTMLCanvasElement> {
  const columns = Math.ceil(Math.sqrt(glyphs.length)), rows = Math.ceil(glyphs.length / columns), step = side + 1;
  const page = canvasOf(columns * step - 1, rows * step - 1);
  page.fillStyle = "rgb(48 48 48)";
  page.fillRect(0, 0, page.canvas.width, page.canvas.height);
  const images = await Promise.all(glyphs.map(({ src }) => createImageBitmap(new Blob([bytesOf(src) as BlobPart]))));
  images.forEach((image, i) => page.drawImage(image, (i % columns) * step, Math.floor(i / columns) * step));
  return page.canvas;
}

// Lines one above the other, on white.
function stacked(lines: HTMLCanvasElement[]): HTMLCanvasElement {
  const step = lines[0]!.height + 8, page = canvasOf(Math.max(...lines.map(({ width }) => width)), step * lines.length - 8);
  page.fillStyle = "white";
  page.fillRect(0, 0, page.canvas.width, page.canvas.height);
  lines.forEach((line, i) => page.drawImage(line, 0, i * step));
  return page.canvas;
}

// A picture in base64 as grey levels, no larger than SIDE.
async function decoded(image: string): Promise<Grid> {
  const picture = await createImageBitmap(new Blob([bytesOf(`,${image}`) as BlobPart])).catch(() => {
    throw new Refusal(t("local.noPicture"), "image");
  });
  const { width, height } = picture, board = canvasOf(width, height);
  board.fillStyle = "white";
  board.fillRect(0, 0, width, height);
  board.drawImage(picture, 0, 0);
  const { data } = board.getImageData(0, 0, width, height);
  // As Pillow makes grey of colours.
  const grey = Float32Array.from({ length: width * height }, (_, i) => (19595 * data[4 * i]! + 38470 * data[4 * i + 1]! + 7471 * data[4 * i + 2]! + 0x8000) >> 16);
  const scale = Math.min(1, SIDE / Math.max(width, height)), whole = grid(width, height, grey);
  return scale === 1 ? whole : resized(whole, Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1), "box");
}

// --- reading ---

const frameOf = (model: Shipped): { side: number; dataset: string } => ({ side: model.image_size, dataset: model.dataset });

async function understood<T>(read: () => Promise<T>): Promise<T> {
  return read().catch((error: unknown) => {
    if (!(error instanceof InkError)) throw error;
    const { problem } = error;
    const { reason, number } = problem, unread = { reason, ...(reason === "several" ? { glyphs: number } : {}) };
    throw new Refusal(t(`local.${reason === "several" ? "many" : reason}`, number), "image", undefined, unread);
  });
}

// The three likeliest classes of each glyph, of those that are possible at all.
function readings(shares: Float64Array[], { classes }: Shipped): Reading[] {
  return shares.map((row) => {
    const likeliest = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 3).filter((label) => row[label]! > 0);
    const [best, ...alternatives] = likeliest.map((label) => ({ ...classes[label]!, confidence: Math.round(1e4 * row[label]!) / 1e4 }));
    return { ...best!, alternatives };
  });
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
const said = (reading: Reading): string => [reading, ...reading.alternatives].map(({ glyph, confidence }) => `${glyph} ${percent(confidence)}`).join(", ");

addTexts("local", {
  broken: ["The models cannot run in this browser ({0}); reload the page, or use another browser.", "मॉडल इस ब्राउज़र में नहीं चल पा रहे हैं ({0}); पेज फिर से खोलें, या दूसरा ब्राउज़र लें।"],
  noModel: ["There is no model {0} here; there are {1}.", "यहाँ {0} नाम का कोई मॉडल नहीं है; ये हैं: {1}।"],
  noLabel: ["The model writes no {0}; it writes {1}.", "मॉडल {0} नहीं लिखता; वह ये लिखता है: {1}।"],
  tooMany: ["{0} images are more than {1}, the most at once; ask for fewer.", "{0} चित्र बहुत ज़्यादा हैं, एक बार में {1} तक बन सकते हैं; कम माँगें।"],
  tooLong: ["The text has {0} characters, and {1} is the most; break it up.", "पाठ में {0} वर्ण हैं, और {1} तक हो सकते हैं; उसे बाँट दें।"],
  empty: ["There is nothing to write; type or tap a text.", "लिखने के लिए कुछ नहीं है; कोई पाठ टाइप करें या चुनें।"],
  unknown: ["The model cannot write {0}; take it out.", "मॉडल यह नहीं लिख सकता: {0}; इसे हटा दें।"],
  unreadable: ["In {1} tries no {0} came out that the judge reads for sure; ask for less confidence.", "{1} कोशिशों में ऐसा {0} नहीं बना जिसे जाँचकर्ता पक्का पढ़ ले; कम भरोसा माँगें।"],
  noWeight: ["The weights of a mix must be finite numbers, and not all 0.", "मिश्रण के भार सीमित संख्याएँ हों, और सभी 0 न हों।"],
  noPicture: ["This file cannot be read; choose a picture such as a PNG or JPEG.", "यह फ़ाइल पढ़ी नहीं जा सकती; PNG या JPEG जैसा कोई चित्र चुनें।"],
  none: ["The image shows nothing: ink and paper hardly differ.", "चित्र में कुछ नहीं दिखता: स्याही और काग़ज़ लगभग एक जैसे हैं।"],
  rows: ["The image shows {0} rows of glyphs; cut it to one.", "चित्र में अक्षरों की {0} पंक्तियाँ हैं; उसे एक तक काट दें।"],
  many: ["The image shows {0} glyphs, which are too many; cut it.", "चित्र में {0} अक्षर हैं, जो बहुत ज़्यादा हैं; उसे काट दें।"],
  several: ["The image shows about {0} glyphs, not one; write them apart, or read a row of digits.", "चित्र में एक नहीं, लगभग {0} अक्षर हैं; उन्हें अलग-अलग लिखें, या अंकों की पंक्ति पढ़वाएँ।"],
  unsure: ["The image shows no glyph for sure: {0}, and below {1} that is a guess.", "चित्र में कोई अक्षर पक्का नहीं दिखता: {0}, और {1} से कम केवल अंदाज़ा है।"],
  noDigits: ["The judge of {0} reads no digits, so there is no number to write again.", "{0} का जाँचकर्ता अंक नहीं पढ़ता, इसलिए फिर से लिखने को कोई संख्या नहीं है।"],
  glyphOf: ["Glyph {0} of {1}", "{1} में से अक्षर {0}"],
  theImage: ["The image", "चित्र"],
  noDigit: ["{0} looks like {1}, which is no digit.", "{0}: यह {1} जैसा दिखता है, जो अंक नहीं है।"],
  unsureDigit: ["{0} shows no digit for sure: {1}.", "{0}: कोई अंक पक्का नहीं दिखता: {1}।"],
});
