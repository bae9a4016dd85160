// Random numbers from seeds. Python's are others, so that the same seed gives other pictures here than on the server.

// splitmix32, which spreads seeds that are close to each other.
function splitmix(state: number): () => number {
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

const rotated = (x: number, by: number): number => (x << by) | (x >>> (32 - by));

// xoshiro128** by D. Blackman and S. Vigna (2018).
export class Random {
  private state: Uint32Array;
  private spare: number | undefined;

  // Of whole numbers from 0 to 2^53 - 1.
  constructor(...seeds: number[]) {
    let state = 0x6c656b68;
    for (const seed of seeds) {
      state = splitmix(state ^ (seed >>> 0))();
      state = splitmix(state ^ Math.floor(seed / 2 ** 32))();
    }
    const next = splitmix(state);
    this.state = Uint32Array.from({ length: 4 }, next);
  }

  // 32 bits.
  bits(): number {
    const s = this.state as unknown as [number, number, number, number];
    const result = Math.imul(rotated(Math.imul(s[1], 5), 7), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotated(s[3], 11);
    return result;
  }

  uniform(low = 0, high = 1): number {
    return low + (high - low) * ((this.bits() + 0.5) / 2 ** 32);
  }

  // By Box and Muller, who give two at a time.
  normal(mean = 0, deviation = 1): number {
    if (this.spare === undefined) {
      const radius = Math.sqrt(-2 * Math.log(this.uniform())), angle = 2 * Math.PI * this.uniform();
      this.spare = radius * Math.sin(angle);
      return mean + deviation * radius * Math.cos(angle);
    }
    const value = this.spare;
    this.spare = undefined;
    return mean + deviation * value;
  }

  normals(count: number): Float32Array {
    return Float32Array.from({ length: count }, () => this.normal());
  }

  // Within so many standard deviations.
  truncated(count: number, bound: number): Float32Array {
    const one = (): number => {
      for (;;) {
        // An even draw is kept as often as the normal density says; beyond 2 few would be.
        const value = bound > 2 ? this.normal() : this.uniform(-bound, bound);
        if (bound > 2 ? Math.abs(value) <= bound : this.uniform() < Math.exp((-value * value) / 2)) return value;
      }
    };
    return Float32Array.from({ length: count }, one);
  }
}

// The noise of a seed.
export const noiseOf = (seed: number, dim: number): Float32Array => new Random(seed).normals(dim);

// Noises on the sphere: the weights are scaled to unit length, so that the sum is a standard normal again.
export function mixed(mix: Record<string, number>, dim: number): Float32Array {
  const parts = Object.entries(mix), length = Math.hypot(...parts.map(([, weight]) => weight));
  const sum = new Float32Array(dim);
  for (const [seed, weight] of parts) {
    const noise = noiseOf(Number(seed), dim);
    for (let i = 0; i < dim; i++) sum[i]! += (weight / length) * noise[i]!;
  }
  return sum;
}
