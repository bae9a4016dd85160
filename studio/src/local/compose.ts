// Lines of text as one hand may have written them: what handwriting/layout.py and render.py do, in small. Letters of the model are joined
// by their head line; signs that it has not learned come from the page's typeface.
import { LineRequest } from "../engine";
import { cut, extent, Grid, grid, percentile, resized } from "./grid";
import { hasHeadLine, opensLate, Piece, Sign, stemOf } from "./letters";
import { Random } from "./noise";

const DETAIL = 3; // pixels of the drawing board for one of a glyph's
const MARGIN = 0.14; // of the height, above and below the ink
const INKS = { black: [[25, 25, 30]], blue: [[22, 35, 90], [30, 50, 140]], pencil: [[70, 70, 75]] }; // red, green and blue
const RULES = ["rgb(120 160 215)", "rgb(150 150 160)", "rgb(215 150 150)", "rgb(130 185 175)"];
const STRENGTHS = { none: 0, light: 1, strong: 2.5 };
export const FONT = "Lekhani Devanagari";
// Of the typeface, in parts of its size: the middle of the head line above the baseline, the stem of a letter from its right end, how far
// a letter is from the beginning of a short i, and the end of that one's hook from there.
const HEAD = 0.587, STEM = 0.13, SHORT_I = 0.259, HOOK = 0.45;

// Where a head line begins and ends, the rows of its middle there, and its thickness.
interface Head { start: number; end: number; rows: [number, number]; thickness: number }

// Ink whose first row lies `top` below that of the model's frame; `left` columns of it lie above or below what is before it, and `right`
// ones what is after it.
interface Drawn { ink: Grid; head?: Head; top: number; left: number; right: number; tight: boolean }

// The rows of the head line's middle and of the lower edge of letters, and the width of the pen.
interface Hand { head: number; base: number; stroke: number }

// --- letters ---

// A glyph enlarged, with strokes as wide as the pen's.
function drawLetter(image: Grid, glyph: string, pen: number, rng: Random): Drawn {
  const side = image.height * DETAIL, [width, height] = [0, 0].map(() => Math.round(side * Math.exp(rng.normal(0, 0.025)))) as [number, number];
  const big = resized(image, width, height, "bicubic"), board = grid(side, side);
  const left = Math.trunc((width - side) / 2), top = Math.trunc((height - side) / 2);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const u = x + left, v = y + top, inside = u >= 0 && u < width && v >= 0 && v < height;
      board.data[y * side + x] = Math.min(Math.max(((inside ? big.data[v * width + u]! : 0) - pen) * 2.5 + 0.5, 0), 1);
    }
  }
  const [first, end] = extent(board, "columns"), ink = end > first ? cut(board, first, 0, end, side) : board;
  return { ink, head: hasHeadLine(glyph) ? findHead(ink, opensLate(glyph)) : undefined, top: 0, left: 0, right: 0, tight: false };
}

// The longest stretch of ink along a row of the upper third, or of its right part where the letter's head is open.
function findHead(ink: Grid, isOpen: boolean): Head | undefined {
  const [first, last] = extent(ink, "rows"), { width, data } = ink, left = isOpen ? Math.floor((2 * width) / 5) : 0;
  let best = { length: 0, row: 0, end: 0 };
  for (let y = 0; y < Math.floor((2 * first + last - 1) / 3) + 1; y++) {
    const inked = (x: number): boolean => [y - 1, y, y + 1].some((row) => row >= 0 && row < ink.height && data[row * width + x]! > 0.5);
    let mass = 0;
    for (let x = left; x < width; x++) mass += data[y * width + x]!;
    for (let x = left, run = 0; x < width; x++) {
      run = inked(x) ? run + 1 : 0;
      if (run && run + mass / data.length > best.length) best = { length: run + mass / data.length, row: y, end: x };
    }
  }
  const run = Math.floor(best.length), start = best.end - run + 1, reach = 2 * DETAIL;
  if (run - 1 < 0.4 * (width - left)) return undefined;
  const top = Math.max(best.row - reach, 0), bottom = Math.min(best.row + reach + 1, ink.height);
  const middle = (from: number, to: number): number => {
    let sum = 0, mass = 0;
    for (let y = top; y < bottom; y++) {
      for (let x = Math.max(from, 0); x < to; x++) {
        sum += y * data[y * width + x]!;
        mass += data[y * width + x]!;
      }
    }
    return sum / Math.max(mass, 1e-6);
  };
  const columns = Array.from({ length: run }, (_, i) => {
    let mass = 0;
    for (let y = top; y < bottom; y++) mass += data[y * width + start + i]!;
    return mass;
  });
  return { start, end: best.end, rows: [middle(start, start + reach), middle(best.end - reach, best.end + 1)], thickness: percentile(columns, 50) };
}

const rowOf = (head: Head): number => (head.rows[0] + head.rows[1]) / 2;

function measure(letters: Drawn[], side: number): Hand {
  const middle = (values: number[], other: number): number => (values.length ? percentile(values, 50) : other), heads = letters.flatMap(({ head }) => head ?? []);
  const stroke = middle(heads.map((head) => head.thickness), 0.085 * side), bases = letters.map(({ ink }) => extent(ink, "rows")[1]);
  const tops = heads.length ? heads.map(rowOf) : letters.map(({ ink }) => extent(ink, "rows")[0] + stroke / 2), head = middle(tops, 0.13 * side);
  return { head, base: Math.max(middle(bases, 0.95 * side), head + side / 3), stroke };
}

// The middle of the stem of a letter, where signs stand, or else where a typeface has them.
function anchor(glyph: string, { ink, head }: Drawn, hand: Hand, place: "above" | "below"): number {
  const kind = stemOf(glyph);
  if (kind !== "right") return (kind === "middle" ? 0.5 : place === "above" ? 0.72 : 0.56) * ink.width;
  const [first, last] = extent(ink, "rows"), edges: number[] = [];
  for (let y = Math.round((head ? rowOf(head) : first) + 1.2 * hand.stroke); y < last - 0.3 * hand.stroke; y++) {
    const row = ink.data.subarray(y * ink.width, (y + 1) * ink.width), edge = row.findLastIndex((value) => value > 0.5);
    if (edge >= 0) edges.push(edge);
  }
  return edges.length < 8 ? 0.85 * ink.width : Math.max(percentile(edges, 50) - hand.stroke / 2, 0.6 * ink.width);
}

// --- the typeface ---

interface Placed { ink: Grid; x: number; y: number } // from the point where the text begins on its baseline

function typeset(text: string, size: number, rng: Random, widen = 1): Placed {
  const board = document.createElement("canvas").getContext("2d", { willReadFrequently: true })!, font = `${size}px "${FONT}"`;
  board.font = font;
  const wide = board.measureText(text).width, before = Math.ceil(0.7 * size * widen);
  board.canvas.width = before + Math.ceil((wide + size) * widen);
  board.canvas.height = Math.ceil(2 * size);
  board.font = font;
  const turn = rng.normal(0, 0.015), grow = Math.exp(rng.normal(0, 0.025)), down = Math.ceil(1.3 * size);
  board.setTransform(widen * grow, turn, -turn, grow, before, down);
  board.fillText(text, 0, 0);
  const { width, height, data } = board.getImageData(0, 0, board.canvas.width, board.canvas.height);
  const ink = grid(width, height, Float32Array.from({ length: width * height }, (_, i) => data[4 * i + 3]! / 255));
  const [left, right] = extent(ink, "columns"), [top, bottom] = extent(ink, "rows");
  if (right <= left) return { ink: grid(1, 1), x: 0, y: 0 };
  return { ink: cut(ink, left, top, right, bottom), x: left - before, y: top - down };
}

const sizeOf = (hand: Hand): number => (hand.base - hand.head) / HEAD;
const withSpace = (sign: string): string => `\u00a0${sign}`; // a sign alone would stand on a dotted circle

function alone(text: string, hand: Hand, rng: Random): Drawn {
  const { ink, y } = typeset(text, sizeOf(hand), rng), top = hand.head + HEAD * sizeOf(hand) + y;
  return { ink, head: lineIn(ink, hand, hand.head - top), top: Math.round(top), left: 0, right: 0, tight: false };
}

// The head line of what the typeface drew, as far as it has one.
function lineIn(ink: Grid, hand: Hand, row: number): Head | undefined {
  const y = Math.round(row);
  if (y < 0 || y >= ink.height) return undefined;
  const values = ink.data.subarray(y * ink.width, (y + 1) * ink.width), start = values.findIndex((value) => value > 0.5), end = values.findLastIndex((value) => value > 0.5);
  return end - start > 1.5 * hand.stroke ? { start, end, rows: [row, row], thickness: hand.stroke } : undefined;
}

function before(sign: string, letter: Drawn, glyph: string, hand: Hand, rng: Random): Drawn {
  const size = sizeOf(hand), reach = anchor(glyph, letter, hand, "above"), widen = Math.min(Math.max(reach / (HOOK * size), 0.8), 1.6);
  const { ink, x, y } = typeset(withSpace(sign), size, rng, widen), top = hand.head + HEAD * size + y;
  const end = Math.round(widen * SHORT_I * size) - x;
  return { ink, head: lineIn(ink, hand, hand.head - top), top: Math.round(top), left: 0, right: Math.max(ink.width - end, 0), tight: false };
}

function after(sign: string, hand: Hand, rng: Random): Drawn {
  const size = sizeOf(hand), { ink, x, y } = typeset(withSpace(sign), size, rng), top = hand.head + HEAD * size + y;
  return { ink, head: lineIn(ink, hand, hand.head - top), top: Math.round(top), left: Math.max(Math.round(2 * STEM * size) - x, 0), right: 0, tight: true };
}

// A letter with signs above and below it.
function withSigns(letter: Drawn, glyph: string, signs: Sign[], hand: Hand, rng: Random): Drawn {
  const size = sizeOf(hand), parts = [{ ink: letter.ink, x: 0, y: 0 }];
  for (const { text, place } of signs) {
    const at = anchor(glyph, letter, hand, place as "above" | "below"), { ink, x, y } = typeset(withSpace(text), size, rng);
    // The space is twice as wide as the stem is from a letter's end.
    const line = letter.head ? rowOf(letter.head) + HEAD * size : hand.base, low = extent(letter.ink, "rows")[1];
    parts.push({ ink, x: Math.round(at + x - STEM * size), y: Math.round((place === "above" ? line : low) + y) });
  }
  const left = Math.min(...parts.map(({ x }) => x)), top = Math.min(...parts.map(({ y }) => y));
  const ink = grid(Math.max(...parts.map(({ x, ink }) => x + ink.width)) - left, Math.max(...parts.map(({ y, ink }) => y + ink.height)) - top);
  for (const part of parts) lay(ink, part.ink, part.x - left, part.y - top);
  const { head } = letter, moved = head && { ...head, start: head.start - left, end: head.end - left, rows: head.rows.map((row) => row - top) as [number, number] };
  return { ...letter, ink, head: moved, top: letter.top + top, left: -left, right: ink.width + left - letter.ink.width };
}

// --- a line ---

function lay(board: Grid, ink: Grid, left: number, top: number): void {
  for (let y = 0; y < ink.height; y++) {
    for (let x = 0; x < ink.width; x++) {
      const u = left + x, v = top + y;
      if (u < 0 || u >= board.width || v < 0 || v >= board.height) continue;
      board.data[v * board.width + u] = Math.max(board.data[v * board.width + u]!, ink.data[y * ink.width + x]!);
    }
  }
}

// All pieces as ink, null for a space; `images` are the glyphs that the model drew of them, in order.
function drawAll(all: (Piece | null)[], images: Grid[], side: number, rng: Random): (Drawn | null)[] {
  const pen = rng.uniform(0.36, 0.5), written = all.filter((piece) => piece?.label !== undefined).map((piece, i) => drawLetter(images[i]!, piece!.text, pen, rng));
  const hand = measure(written, side), letters = written.values();
  return all.flatMap((piece): (Drawn | null)[] => {
    if (!piece) return [null];
    if (piece.label === undefined) return [alone(piece.text, hand, rng)];
    const letter = letters.next().value!, around = piece.signs.filter(({ place }) => place === "above" || place === "below");
    const first = piece.signs.filter(({ place }) => place === "before").map(({ text }) => before(text, letter, piece.text, hand, rng));
    const last = piece.signs.filter(({ place }) => place === "after").map(({ text }) => after(text, hand, rng));
    const drawn = around.length ? withSigns(letter, piece.text, around, hand, rng) : letter;
    return [...first, { ...drawn, tight: first.length > 0 }, ...last];
  });
}

// Side by side, with the head line drawn on from letter to letter, and cropped.
function layOut(drawn: (Drawn | null)[], side: number, rng: Random): Grid {
  const heads = drawn.flatMap((one) => (one?.head ? rowOf(one.head) + one.top : [])), line = heads.length ? percentile(heads, 50) : 0;
  const room = Math.floor(side / 8), tops = drawn.map((one) => (one ? -one.top : 0)), ends = drawn.map((one) => (one ? one.ink.height + one.top - side : 0));
  const above = Math.max(...tops, 0), below = Math.max(...ends, 0);
  const width = drawn.reduce((sum, one) => sum + (one ? one.ink.width + side / 3 : side), side);
  const board = grid(Math.ceil(width), side + 2 * room + above + below), spacing = rng.uniform(0.09, 0.14);
  let x = side / 3, previous: { one: Drawn; left: number; top: number } | undefined;
  for (const one of drawn) {
    if (!one) {
      x += side * rng.uniform(0.38, 0.55);
      previous = undefined;
      continue;
    }
    const joined = Boolean(previous?.one.head && one.head);
    if (previous) x += side * (one.tight ? rng.uniform(0, 0.02) : joined ? rng.uniform(0.02, 0.05) : Math.max(rng.normal(spacing, 0.025), 0.04));
    const lift = one.head ? line - rowOf(one.head) - one.top : 0, wobble = side * rng.normal(0, one.head ? 0.004 : 0.012);
    const left = Math.max(Math.round(x) - one.left, 0), top = above + Math.min(Math.max(room + Math.round(lift + wobble), 0), 2 * room) + one.top;
    lay(board, one.ink, left, top);
    if (joined) join(board, previous!, { one, left, top });
    previous = { one, left, top };
    x = left + one.ink.width - one.right;
  }
  const [first, end] = extent(board, "rows"), [start, stop] = extent(board, "columns");
  if (end <= first) return cut(board, 0, 0, side, side);
  const short = Math.max(Math.floor((2 * side) / 3) - (end - first), 0), top = Math.max(first - Math.ceil(short / 2), 0); // a dash would fill the page
  return cut(board, start, top, stop, Math.max(end, Math.min(top + Math.floor((2 * side) / 3), board.height)));
}

function join(board: Grid, { one: left, left: from, top: leftTop }: { one: Drawn; left: number; top: number }, { one: right, left: to, top: rightTop }: { one: Drawn; left: number; top: number }): void {
  const a = left.head!, b = right.head!, own = (one: Drawn): number => one.ink.width - one.left - one.right;
  // Nothing into a letter whose head is open, or out of one whose head ends early.
  if (b.start - right.left > 0.2 * own(right) || a.end - left.left < 0.8 * own(left)) return;
  const start = from + a.end - DETAIL, end = to + b.start + DETAIL;
  for (let x = start; x <= end; x++) {
    const share = (x - start) / Math.max(end - start, 1), row = (1 - share) * (leftTop + a.rows[1]) + share * (rightTop + b.rows[0]);
    const half = ((1 - share) * a.thickness + share * b.thickness) / 2;
    for (let y = Math.max(Math.floor(row - half - 1), 0); y <= Math.min(row + half + 1, board.height - 1); y++) {
      const place = y * board.width + x;
      board.data[place] = Math.max(board.data[place]!, Math.min(Math.max(half + 0.5 - Math.abs(y - row), 0), 1));
    }
  }
}

// A line on paper, as a canvas; `images` are the glyphs that the model drew, white on black.
export function writeLine(all: (Piece | null)[], images: Grid[], side: number, rng: Random, asked: LineRequest): HTMLCanvasElement {
  const { height, augment, paper = "plain", ink: wanted = "any" } = asked, inks = wanted === "any" ? Object.values(INKS).flat() : INKS[wanted];
  const slant = rng.normal(0, 0.06), ink = layOut(drawAll(all, images, side * DETAIL, rng), side * DETAIL, rng), strength = STRENGTHS[augment];
  const colour = inks[rng.bits() % inks.length]!, shown = strength || wanted !== "any" ? colour : [0, 0, 0], rule = RULES[rng.bits() % RULES.length]!;
  const most = (0.35 * ink.height) / ink.width + 0.002, turn = Math.min(Math.max(rng.normal(0, 0.009) * strength, -most), most);
  const source = document.createElement("canvas"), picture = document.createElement("canvas");
  source.width = ink.width;
  source.height = ink.height;
  const pixels = new ImageData(ink.width, ink.height);
  ink.data.forEach((value, i) => pixels.data.set([...shown, 255 * value], 4 * i));
  source.getContext("2d")!.putImageData(pixels, 0, 0);
  const margin = Math.round(MARGIN * height), high = ink.height + Math.abs(turn) * ink.width, wide = ink.width + Math.abs(slant) * ink.height + Math.abs(turn) * ink.height;
  const scale = (height - 2 * margin) / high;
  picture.width = Math.max(Math.round(wide * scale), 1) + 4 * margin;
  picture.height = height;
  const page = picture.getContext("2d")!;
  page.fillStyle = "white";
  page.fillRect(0, 0, picture.width, height);
  if (paper !== "plain") drawRules(page, paper, rule, rng);
  page.imageSmoothingQuality = "high";
  page.globalCompositeOperation = "multiply";
  page.translate(picture.width / 2, height / 2);
  page.rotate(-turn);
  page.transform(scale, 0, -slant * scale, scale, 0, 0);
  page.drawImage(source, -ink.width / 2, -ink.height / 2);
  return picture;
}

function drawRules(page: CanvasRenderingContext2D, paper: "ruled" | "squared", colour: string, rng: Random): void {
  const { width, height } = page.canvas, gap = height * (paper === "ruled" ? rng.uniform(0.6, 1.1) : rng.uniform(0.25, 0.5));
  page.fillStyle = colour;
  for (let y = rng.uniform(0, gap); y < height; y += gap) page.fillRect(0, y, width, height / 64);
  if (paper === "squared") for (let x = rng.uniform(0, gap); x < width; x += gap) page.fillRect(x, 0, height / 64, height);
}
