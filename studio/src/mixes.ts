// Noise between seeds: a mix has a weight for each seed and unit length, so that all mixes lie on a sphere.
export type Mix = Record<string, number>;

export const MAX_SEED = 2 ** 31;
const MOST_SEEDS = 8; // of one mix, in the API

// The sum of mixes by their weights. Weights are rounded to what an address keeps, so that a link shows the same.
export function blend(...parts: [mix: Mix, weight: number][]): Mix {
  const sum: Mix = {};
  for (const [mix, weight] of parts) for (const [seed, own] of Object.entries(mix)) sum[seed] = (sum[seed] ?? 0) + weight * own;
  const heaviest = Object.entries(sum).sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, MOST_SEEDS);
  const length = Math.hypot(...heaviest.map(([, weight]) => weight)) || 1;
  return Object.fromEntries(heaviest.map(([seed, weight]) => [seed, Number((weight / length).toFixed(3))]).filter(([, weight]) => weight));
}

export const alone = (seed: number): Mix => ({ [seed]: 1 });

// The way from a mix to a seed: at a right angle to the mix, so that no step leads through the middle of the sphere.
export const towards = (seed: number, from: Mix): Mix => blend([alone(seed), 1], [from, -(from[seed] ?? 0)]);

// A mix as text: "7", or "7:0.8 12:0.6".
export function mixText(mix: Mix): string {
  const parts = Object.entries(mix);
  return parts.length === 1 && parts[0]![1] > 0 ? parts[0]![0] : parts.map(([seed, weight]) => `${seed}:${weight}`).join(" ");
}

// The mix that a text stands for; undefined where it is none.
export function parseMix(text: string): Mix | undefined {
  const mix: Mix = {};
  for (const part of text.trim().split(/\s+/)) {
    const [, seed, weight = "1"] = /^(\d{1,10})(?::(-?\d*\.?\d+))?$/.exec(part) ?? [];
    if (seed === undefined || Number(seed) > MAX_SEED) return undefined;
    mix[Number(seed)] = Number(weight);
  }
  const parsed = blend([mix, 1]);
  return Object.keys(parsed).length ? parsed : undefined;
}

// The next seed that is none of `used`.
export function nextSeed(seed: number, used: number[]): number {
  const next = seed < MAX_SEED ? seed + 1 : 0;
  return used.includes(next) ? nextSeed(next, used) : next;
}
