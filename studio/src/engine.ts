// What the page can ask for, whether a server answers or the browser itself. Names are those of the HTTP API.

export interface GlyphClass { label: number; name: string; glyph: string }

export interface Model {
  dataset: string;
  version: string;
  variant: string;
  image_size: number;
  takes_labels: boolean;
  classes: GlyphClass[];
  animated?: string[]; // variants that can be watched
  letter_forms?: Record<string, string>; // "ne", "hi" or "both": whose form of a letter is written, where languages differ
}

export interface Glyph { glyph: string; src: string } // src: the address of a PNG, white on black as in the data; the page inverts it

export interface GlyphRequest {
  model: string;
  version?: string;
  labels: string[];
  n: number;
  seed: number;
  min_confidence?: number;
  truncation?: number;
}

export interface LineRequest {
  model: string;
  text: string;
  n: number; // of the seeds seed, seed + 1 and so on
  seed: number;
  height: number; // pixels
  variety: number; // 0 to 1
  augment: "none" | "light" | "strong";
  paper?: "plain" | "ruled" | "squared";
  ink?: "any" | "black" | "blue" | "pencil";
}

export interface Lines { text: string; drawn: string[]; lines: { seed: number; src: string }[] } // drawn: signs from a typeface

export interface Point { label: string; mix: Record<string, number> } // noise: the seeds' by their weights, scaled to unit length

export interface ExploreRequest { model: string; version?: string; points: Point[] }

export interface Guess { glyph: string; confidence: number }
export interface Reading extends Guess { alternatives: Guess[] }

export interface Translation { read: string; digits: Reading[]; images: Glyph[] }

export interface StepsRequest { model: string; variant: string; labels: string[]; seed: number }

export interface Square { x: number; y: number; width: number } // its centre and its side, in parts of the image's side

// For each moment from before the first step, and each label: the address of a PNG like a glyph's, and where the step wrote.
export interface Steps { frames: string[][]; windows: (Square | null)[][] }

// A registered version; "" is what is served from a file.
export interface Version { version: string; aliases: string[]; variant: string | null; figures: Record<string, number | null>; url: string | null }

export interface RealRequest { model: string; labels: string[]; n: number; seed: number }

// A training in this project; curves: [images seen, value] by name; grid: base64 PNG.
export interface Training {
  dataset: string;
  variant: string;
  images_seen: number;
  total: number | null;
  updated: string; // ISO 8601
  running: boolean;
  curves: Record<string, [number, number][]>;
  grid: string | null;
}

export type FileKind = "png" | "zip" | "parquet";

export type Written = { route: "generate"; body: GlyphRequest } | { route: "compose"; body: LineRequest };

// Every method throws a Refusal with a sentence for people, and ends when its signal does.
export interface Engine {
  readonly edition: "server" | "static";
  readonly fileKinds: FileKind[];
  models(): Promise<Model[]>;
  glyphs(request: GlyphRequest, signal?: AbortSignal): Promise<Glyph[]>;
  lines(request: LineRequest, signal?: AbortSignal): Promise<Lines>;
  explore(request: ExploreRequest, signal?: AbortSignal): Promise<Glyph[]>;
  recognise(request: { model: string; image: string; force?: boolean }, signal?: AbortSignal): Promise<Reading>; // image: base64
  translate(
    request: { model: string; to: string; image: string; seed: number; force?: boolean },
    signal?: AbortSignal,
  ): Promise<Translation>;
  save(written: Written, kind: FileKind, signal?: AbortSignal): Promise<Blob>;
}

// What a server alone can tell, to views that need one.
export interface ServerEngine extends Engine {
  readonly edition: "server";
  steps(request: StepsRequest, signal?: AbortSignal): Promise<Steps>;
  versions(model: string, signal?: AbortSignal): Promise<Version[]>;
  real(request: RealRequest, signal?: AbortSignal): Promise<Glyph[]>;
  trainings(signal?: AbortSignal): Promise<Training[]>;
}

// Why a picture was not read, about how many glyphs it shows, and what each of several is read as where they come apart.
export interface Unread { reason?: "none" | "several" | "rows" | "unsure"; glyphs?: number; parts?: Reading[] }

// A sentence for people. `field` names what of the request it is about; `readings` are what `force` would take for a picture.
export class Refusal extends Error {
  constructor(message: string, readonly field?: string, readonly readings?: Reading[], readonly unread: Unread = {}) {
    super(message);
  }
}
