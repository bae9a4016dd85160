// The engine behind which a server answers: the HTTP API. Where it has keys, one is kept in this tab and sent with each call.
import { Engine, ExploreRequest, FileKind, Glyph, GlyphRequest, LineRequest, Lines, Model, Reading, Refusal, Translation, Unread, Written } from "./engine";
import { t } from "./texts";

const KEY = "lekhani-key";
const TYPES = { png: "image/png", zip: "application/zip", parquet: "application/vnd.apache.parquet" };

export const keepKey = (key: string): void => sessionStorage.setItem(KEY, key);

interface Sent { glyph: string; png: string }
const address = (png: string): string => `data:image/png;base64,${png}`;
const shown = (images: Sent[]): Glyph[] => images.map(({ glyph, png }) => ({ glyph, src: address(png) }));

// The response to a GET, or a POST with a body. A refused key makes the event "keyless" on the document.
export async function call(route: string, body?: object, signal?: AbortSignal, accept = "application/json"): Promise<Response> {
  const key = sessionStorage.getItem(KEY), headers: Record<string, string> = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const request: RequestInit = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const response = await fetch(`v1/${route}`, request).catch((error: Error) => {
    throw error.name === "AbortError" ? error : new Refusal(t("api.away"));
  });
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as Unread & { detail?: string; readings?: Reading[] };
  const sentence = problem.detail ?? t("api.status", response.status);
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    document.dispatchEvent(new CustomEvent("keyless", { detail: key ? sentence : "" }));
  }
  const [, field, rest] = /^(\w+): (.+)$/s.exec(sentence) ?? [];
  throw new Refusal(rest ?? sentence, field, problem.readings, problem);
}

export async function ask<T>(route: string, body?: object, signal?: AbortSignal): Promise<T> {
  return (await call(route, body, signal)).json() as Promise<T>;
}

export class ApiEngine implements Engine {
  readonly edition = "server";
  readonly fileKinds: FileKind[] = ["png", "zip", "parquet"];

  models(): Promise<Model[]> {
    return ask("models");
  }

  async glyphs(request: GlyphRequest, signal?: AbortSignal): Promise<Glyph[]> {
    return shown((await ask<{ images: Sent[] }>("generate", request, signal)).images);
  }

  async lines(request: LineRequest, signal?: AbortSignal): Promise<Lines> {
    const { text, drawn, lines } = await ask<{ text: string; drawn: string[]; lines: { seed: number; png: string }[] }>("compose", request, signal);
    return { text, drawn, lines: lines.map(({ seed, png }) => ({ seed, src: address(png) })) };
  }

  async explore(request: ExploreRequest, signal?: AbortSignal): Promise<Glyph[]> {
    return shown((await ask<{ images: Sent[] }>("explore", request, signal)).images);
  }

  recognise(request: object, signal?: AbortSignal): Promise<Reading> {
    return ask("recognise", request, signal);
  }

  async translate(request: object, signal?: AbortSignal): Promise<Translation> {
    const { read, digits, images } = await ask<{ read: string; digits: Reading[]; images: Sent[] }>("translate", request, signal);
    return { read, digits, images: shown(images) };
  }

  async save({ route, body }: Written, kind: FileKind, signal?: AbortSignal): Promise<Blob> {
    return (await call(route, body, signal, TYPES[kind])).blob();
  }
}
