// From a picture to the frames that a judge reads, and from its logits to a reading: handwriting/ink.py, recognise.py and translate.py
// in small. The rules of ruled paper are not erased, and a page is not turned upright by them.
import { closed, cut, dilated, extent, Grid, grid, highest, blurred, percentile, percentiles, resized, rint, rotated, spots } from "./grid";

export interface Frame { side: number; dataset: string } // what the judge reads

const FAINTEST = 12; // grey levels between ink and paper below which a picture counts as blank
const MOST = 50; // glyphs in a row
const ANGLES = [0, -10, 10, -20, 20, -30, 30]; // degrees by which ink is turned
const TURNING = 0.05; // what a degree costs, in logits
const TURNED_SIDE = 128; // pixels of a glyph that is turned
const WIDE = 1.6; // in parts of the height: wider ink is more than one glyph, where it comes apart
export const MIN_CONFIDENCE = 0.9; // below this a reading is refused

// Nothing to be seen, or too many rows or glyphs.
export class InkError extends Error {
  constructor(readonly problem: { reason: "none" | "rows" | "several"; number: number }) {
    super(problem.reason);
  }
}

// How much ink lies on each pixel of a grey picture, from 0 to 1, without the paper's shade and specks.
export function inkOf(picture: Grid): Grid {
  const ink = relativeInk(picture);
  // Paper's own unevenness stays below a fifth of the ink; what is above four fifths is full ink.
  ink.data = ink.data.map((value) => Math.min(Math.max((value - 0.2) / 0.6, 0), 1));
  if (!ink.data.some((value) => value > 0.5)) throw new InkError({ reason: "none", number: 0 });
  return withoutSpecks(ink);
}

// In parts of what the strokes have.
function relativeInk(picture: Grid): Grid {
  const { width, height } = picture, longest = Math.max(width, height), shortest = Math.min(width, height);
  let grey = longest >= 64 ? blurred(picture, longest / 400) : picture, shade = paper(picture);
  const [low, high] = percentiles(grey.data, 0.5, 99.5) as [number, number];
  if (high - shade > shade - low) {
    grey = grid(width, height, grey.data.map((value) => 255 - value));
    shade = 255 - shade;
  }
  // Wider than any stroke, so that closing leaves the paper alone: its shade at each place.
  const reach = Math.max(Math.floor(shortest / 3), 3) | 1, small = Math.max(Math.floor(reach / 15), 1);
  const coarse = grid(Math.ceil(width / small), Math.ceil(height / small));
  for (let y = 0, i = 0; y < height; y += small) for (let x = 0; x < width; x += small) coarse.data[i++] = grey.data[y * width + x]!;
  const shades = resized(closed(coarse, Math.max(Math.floor(reach / small), 3)), width, height, "bilinear");
  const ink = grid(width, height, shades.data.map((value, i) => Math.max(value - grey.data[i]!, 0)));
  const most = ink.data.reduce((a, b) => Math.max(a, b), 0), top = most > 0 ? percentile(ink.data.filter((value) => value > 0.25 * most), 75) : 0;
  if (top < FAINTEST) throw new InkError({ reason: "none", number: 0 });
  ink.data = ink.data.map((value) => value / top);
  return ink;
}

// The shade of the paper, which is what most of the outermost pixels show.
function paper({ data, width, height }: Grid): number {
  const edge = Math.max(Math.floor(Math.min(width, height) / 40), 1), values: number[] = [];
  for (let i = 0; i < edge; i++) {
    for (let x = 0; x < width; x++) values.push(data[i * width + x]!, data[(height - 1 - i) * width + x]!);
    for (let y = 0; y < height; y++) values.push(data[y * width + i]!, data[y * width + width - 1 - i]!);
  }
  return percentile(values, 50);
}

// How much ink each spot has; the first entry is for the paper.
function masses(ink: Grid, numbers: Grid, count: number): Float64Array {
  const mass = new Float64Array(count + 1);
  ink.data.forEach((value, i) => (mass[numbers.data[i]!]! += value));
  return mass;
}

// Without spots of less than a hundredth of the largest stroke's ink.
function withoutSpecks(ink: Grid): Grid {
  const { numbers, count } = spots(ink);
  if (count < 2) return ink;
  const mass = masses(ink, numbers, count), least = 0.01 * Math.max(...mass.subarray(1)), { width } = ink;
  let dust = numbers.data.map((number) => Number(number > 0 && mass[number]! < least));
  if (!dust.includes(1)) return ink;
  for (let time = 0; time < 2; time++) {
    const now = dust;
    dust = now.map((value, i) => {
      const x = i % width;
      return value || (x > 0 && now[i - 1]) || (x < width - 1 && now[i + 1]) || now[i - width] || now[i + width] || 0;
    });
  }
  return { ...ink, data: ink.data.map((value, i) => (dust[i] ? 0 : value)) };
}

// Ink cropped and fitted into the judge's frame, [S*S] from 0 to 1. MNIST's digits are centred by mass, others by their box.
export function framed(ink: Grid, { side, dataset }: Frame): Float32Array {
  const [top, bottom] = extent(ink, "rows"), [left, right] = extent(ink, "columns"), part = cut(ink, left, top, right, bottom);
  const scale = ((dataset === "mnist" ? 20 / 28 : 28 / 32) * side) / Math.max(part.width, part.height);
  const width = Math.max(rint(part.width * scale), 1), height = Math.max(rint(part.height * scale), 1);
  const small = resized(part, width, height, scale < 1 ? "lanczos" : "bicubic");
  const full = Math.max(percentile(small.data, 98), 0.3); // thin strokes fade when they shrink
  small.data = small.data.map((value) => Math.min(Math.max(value / full, 0), 1));
  let x = (side - width) / 2, y = (side - height) / 2;
  if (dataset === "mnist") {
    let mass = 0, across = 0, down = 0;
    small.data.forEach((value, i) => {
      mass += value;
      across += value * (i % width);
      down += value * Math.floor(i / width);
    });
    x = (side - 1) / 2 - across / mass;
    y = (side - 1) / 2 - down / mass;
  }
  x = Math.min(Math.max(rint(x), 0), side - width);
  y = Math.min(Math.max(rint(y), 0), side - height);
  const frame = new Float32Array(side * side);
  for (let row = 0; row < height; row++) frame.set(small.data.subarray(row * width, (row + 1) * width), (y + row) * side + x);
  return frame.map((value) => rint(255 * value) / 255);
}

// A picture in the judge's own size, which is taken to be such a frame already, but for its polarity.
function asFrame(picture: Grid): Float32Array {
  relativeInk(picture);
  const dark = paper(picture) <= 127;
  return picture.data.map((value) => (dark ? value : 255 - value) / 255);
}

// --- glyphs of a row ---

interface Box { left: number; right: number; top: number; bottom: number }
interface Strokes extends Box { numbers: number[] }

// The glyphs of one row, from left to right, each as ink of the whole picture's size without the others'. Strokes that do not touch
// belong together when one lies above the other, or when one is small and close by.
export function splitGlyphs(ink: Grid): Grid[] {
  const { numbers, count } = spots(ink), { width } = ink;
  const boxes: Box[] = Array.from({ length: count }, () => ({ left: Infinity, right: 0, top: Infinity, bottom: 0 }));
  numbers.data.forEach((number, i) => {
    const box = boxes[number - 1];
    if (!box) return;
    const x = i % width, y = (i - x) / width;
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
  });
  const mass = masses(ink, numbers, count).subarray(1), tall = Math.max(...boxes.map((box) => box.bottom - box.top));
  const rows = countRows(boxes.filter((box) => box.bottom - box.top > 0.5 * tall));
  if (rows > 1) throw new InkError({ reason: "rows", number: rows });
  const least = 0.01 * Math.max(...mass);
  const strokes = boxes.map((box, i) => ({ ...box, numbers: [i + 1] })).filter((_, i) => mass[i]! >= least);
  const glyphs: Strokes[] = [];
  for (const stroke of strokes.sort((a, b) => a.left - b.left || a.right - b.right)) {
    const last = glyphs.at(-1);
    if (last && isSameGlyph(last, stroke, tall)) {
      last.right = Math.max(last.right, stroke.right);
      last.top = Math.min(last.top, stroke.top);
      last.bottom = Math.max(last.bottom, stroke.bottom);
      last.numbers.push(...stroke.numbers);
    } else glyphs.push(stroke);
  }
  if (glyphs.length > MOST) throw new InkError({ reason: "several", number: glyphs.length });
  const reach = dilated(numbers); // the soft edges of strokes
  return glyphs.map((glyph) => {
    const own = new Set(glyph.numbers);
    return { ...ink, data: ink.data.map((value, i) => (own.has(reach.data[i]!) ? value : 0)) };
  });
}

function isSameGlyph(left: Box, right: Box, tall: number): boolean {
  const lower = Math.min(left.bottom - left.top, right.bottom - right.top) / tall;
  const overlap = Math.min(left.right, right.right) - right.left;
  if (overlap > 0.5 * Math.min(left.right - left.left, right.right - right.left)) return lower < 0.75; // two tall strokes that lean over one another are two digits
  return lower < 0.4 && overlap > -0.08 * tall;
}

function countRows(boxes: Box[]): number {
  let rows = 0, end = -1;
  for (const { top, bottom } of [...boxes].sort((a, b) => a.top - b.top || a.bottom - b.bottom)) {
    rows += Number(top >= end);
    end = Math.max(end, bottom);
  }
  return rows === 1 && boxes.some((one) => boxes.some((other) => isAbove(one, other))) ? 2 : rows; // in a picture that is turned
}

function isAbove(one: Box, other: Box): boolean {
  const overlap = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  return one.bottom <= other.top && overlap > 0.3 * Math.min(one.right - one.left, other.right - other.left);
}

const length = ([first, end]: [number, number]): number => end - first;

// How many glyphs hang from one head line: what comes apart below it and is not small.
function countJoined(ink: Grid): number {
  const [top, bottom] = extent(ink, "rows"), part = cut(ink, 0, top, ink.width, bottom), { width, height } = part;
  const upper = Array.from({ length: Math.floor(height / 2) }, (_, y) => part.data.subarray(y * width, (y + 1) * width).reduce((sum, value) => sum + Number(value > 0.5), 0));
  const most = Math.max(...upper), wide = highest(part, "columns").reduce((sum, value) => sum + Number(value > 0.5), 0);
  if (most < 0.6 * wide) return 1;
  const below = cut(part, 0, upper.findLastIndex((sum) => sum > 0.5 * most) + 1, width, height);
  if (!below.data.some((value) => value > 0.5)) return 0;
  return splitGlyphs(below).filter((one) => highest(one, "rows").reduce((sum, value) => sum + Number(value > 0.5), 0) > 0.4 * height).length;
}

function shrunk(ink: Grid, side: number): Grid {
  const high = length(extent(ink, "rows"));
  if (high <= side) return ink;
  const scaled = (size: number): number => Math.max(rint((size * side) / high), 1);
  return resized(ink, scaled(ink.width), scaled(ink.height), "box");
}

// --- what a judge reads ---

export type Judge = (frames: Float32Array[]) => Promise<Float64Array[]>; // the logits of each

export function softmax(logits: Float64Array): Float64Array {
  const most = Math.max(...logits), odds = logits.map((value) => Math.exp(value - most)), sum = odds.reduce((a, b) => a + b, 0);
  return odds.map((value) => value / sum);
}

const logSumExp = (logits: Float64Array): number => {
  const most = Math.max(...logits);
  return most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
};

// Of each glyph the judge's confidence in each class, and the least that is to be trusted.
export interface Read { parts: Grid[]; shares: Float64Array[]; needed: number }

const isFrame = (picture: Grid, frame: Frame): boolean => picture.width === frame.side && picture.height === frame.side;

// The glyphs of a page, turned to where the judge's logits are highest, by their log-sum-exp: that tells glyphs from what is none. What
// is no glyph often resembles one at some angle, so the doubt that may remain halves with each ten degrees.
async function readUpright(ink: Grid, frame: Frame, judge: Judge, split: (ink: Grid) => Grid[]): Promise<Read> {
  const ways: { parts: Grid[]; angle: number }[] = [], small = shrunk(ink, TURNED_SIDE);
  let refused: unknown;
  for (const angle of ANGLES) {
    try {
      ways.push({ parts: split(angle ? rotated(small, angle) : ink), angle });
    } catch (error) {
      refused ??= error;
    }
  }
  if (!ways.length) throw refused;
  const logits = await judge(ways.flatMap(({ parts }) => parts.map((part) => framed(part, frame))));
  const read = ways.map(({ parts, angle }) => {
    const own = logits.splice(0, parts.length);
    return { parts, angle, own, score: own.reduce((sum, one) => sum + logSumExp(one), 0) / own.length - TURNING * Math.abs(angle) };
  });
  const best = read.reduce((a, b) => (b.score > a.score ? b : a));
  return { parts: best.parts, shares: best.own.map(softmax), needed: 1 - (1 - MIN_CONFIDENCE) * 0.5 ** (Math.abs(best.angle) / 10) };
}

async function readFrame(picture: Grid, judge: Judge): Promise<Read> {
  return { parts: [], shares: (await judge([asFrame(picture)])).map(softmax), needed: MIN_CONFIDENCE };
}

// One glyph, about how many there are, and where these are several that come apart, the confidence in each class of each.
export async function readGlyph(picture: Grid, frame: Frame, judge: Judge): Promise<Read & { count: number; several: Float64Array[] }> {
  if (isFrame(picture, frame)) return { ...(await readFrame(picture, judge)), count: 1, several: [] };
  const ink = inkOf(picture), read = await readUpright(ink, frame, judge, (one) => [one]);
  const count = await countGlyphs(ink, read, frame, judge), parts = count > 1 ? splitGlyphs(read.parts[0]!) : [];
  const several = parts.length === count ? (await judge(parts.map((part) => framed(part, frame)))).map(softmax) : [];
  return { ...read, count, several };
}

// Several where they are far apart, or wide and joined at most by a head line; and where each is read more surely than the whole, since
// some letters are of parts that do not touch.
async function countGlyphs(page: Grid, read: Read, frame: Frame, judge: Judge): Promise<number> {
  let count = 1;
  for (const ink of new Set([page, read.parts[0]!])) {
    const parts = splitGlyphs(ink), wide = length(extent(ink, "columns")) / length(extent(ink, "rows")) > WIDE;
    if (parts.length === 1) count = Math.max(count, wide ? countJoined(ink) : 1);
    else if (wide) count = Math.max(count, parts.length);
    else {
      const shares = (await judge(parts.map((part) => framed(part, frame)))).map(softmax);
      if (Math.min(...shares.map((one) => Math.max(...one))) > Math.max(...read.shares[0]!)) count = Math.max(count, parts.length);
    }
  }
  return count;
}

// The glyphs of one row, from left to right.
export async function readRow(picture: Grid, frame: Frame, judge: Judge): Promise<Read> {
  return isFrame(picture, frame) ? readFrame(picture, judge) : readUpright(inkOf(picture), frame, judge, splitGlyphs);
}
