// A line chart as SVG, with the least and most of both axes.
import { make } from "./dom";

export type Points = [x: number, y: number][];

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [320, 160, 56, 20, 8];
const ROWS = 20; // of the table, of as many points as there are

function draw(tag: string, attributes: Record<string, string | number>, text = ""): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.textContent = text;
  return element;
}

const ends = (values: number[]): [number, number] => values.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);

// The points joined by a line; `format` makes the numbers of both axes, `name` is what the picture is called.
export function lineChart(name: string, xName: string, points: Points, format: (value: number) => string): SVGElement {
  const [left, right] = ends(points.map(([x]) => x)), [low, high] = ends(points.map(([, y]) => y));
  const across = (x: number): number => LEFT + ((x - left) / (right - left || 1)) * (WIDTH - LEFT - 8);
  const up = (y: number): number => HEIGHT - BOTTOM - (high > low ? (y - low) / (high - low) : 0.5) * (HEIGHT - BOTTOM - TOP);
  const chart = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name, class: "chart" });
  chart.append(draw("path", { d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - 8}`, class: "axes" }));
  const place = points.map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`);
  chart.append(draw("polyline", { points: place.join(" ") }));
  const [last] = place.slice(-1)[0]!.split(","), end = up(points.at(-1)![1]);
  chart.append(draw("circle", { cx: last!, cy: end, r: 3 }));
  const label = (x: number, y: number, anchor: string, text: string): void => void chart.append(draw("text", { x, y, "text-anchor": anchor }, text));
  label(LEFT - 6, TOP + 5, "end", format(high));
  if (high > low) label(LEFT - 6, HEIGHT - BOTTOM, "end", format(low));
  label(LEFT, HEIGHT - 4, "start", format(left));
  label((LEFT + WIDTH - 8) / 2, HEIGHT - 4, "middle", xName);
  if (right > left) label(WIDTH - 8, HEIGHT - 4, "end", format(right));
  return chart;
}

// The same as a table, of no more than ROWS points, with the last.
export function pointTable(heads: [string, string], points: Points, format: (value: number) => string): HTMLElement {
  const step = Math.max(1, Math.ceil(points.length / ROWS)), shown = points.filter((_, i) => (points.length - 1 - i) % step === 0);
  const rows = shown.map((point) => make("tr", {}, ...point.map((value) => make("td", { textContent: format(value) }))));
  return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((textContent) => make("th", { scope: "col", textContent })))), make("tbody", {}, ...rows));
}
