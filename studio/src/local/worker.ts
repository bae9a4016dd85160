// Runs generators and judges with onnxruntime-web beside the page, so that this never waits.
import type * as Ort from "onnxruntime-web/wasm";

// Images are float32 [N,1,H,W] in [0,1], white on black.
export type Task =
  | { kind: "draw"; file: string; noise: Float32Array; labels: number[]; dim: number }
  | { kind: "read"; file: string; images: Float32Array; side: number };
export type Result = { images: Float32Array } | { logits: Float32Array; features: Float32Array };
export type Answer = Result | { error: string };

const FOLDER = new URL("ort/", self.location.href).href;
// What wasm takes is never given back, so many images are drawn a few at a time.
const ROWS = 64;

const sessions = new Map<string, Promise<Ort.InferenceSession>>();

// Not part of our bundle: it is its makers' file beside it.
async function load(): Promise<typeof Ort> {
  const ort = (await import(`${FOLDER}ort.wasm.bundle.min.mjs`)) as typeof Ort;
  ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
  ort.env.wasm.wasmPaths = { wasm: `${FOLDER}ort-wasm-simd-threaded.wasm` };
  ort.env.logLevel = "error";
  return ort;
}

const runtime = load(); // at once: whoever starts a worker wants to write
runtime.catch(() => undefined); // the first task says so

async function open(file: string): Promise<Ort.InferenceSession> {
  const content = fetch(file).then((answer) => {
    if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
    return answer.arrayBuffer();
  });
  const [ort, model] = await Promise.all([runtime, content]);
  return ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
}

function session(file: string): Promise<Ort.InferenceSession> {
  let known = sessions.get(file);
  if (!known) {
    known = open(file);
    sessions.set(file, known);
    known.catch(() => sessions.delete(file)); // a later try may have a network
  }
  return known;
}

// Runs in batches; `feed` makes the inputs of rows from the first to before the last.
async function batched(file: string, rows: number, feed: (ort: typeof Ort, from: number, to: number) => Record<string, Ort.Tensor>): Promise<Record<string, Float32Array>> {
  const model = await session(file), ort = await runtime;
  const whole: Record<string, Float32Array> = {};
  for (let from = 0; from < rows; from += ROWS) {
    const inputs = Object.entries(feed(ort, from, Math.min(from + ROWS, rows))).filter(([name]) => model.inputNames.includes(name));
    for (const [name, tensor] of Object.entries(await model.run(Object.fromEntries(inputs)))) {
      const size = tensor.size / tensor.dims[0]!;
      whole[name] ??= new Float32Array(rows * size);
      whole[name]!.set(tensor.data as Float32Array, from * size);
      tensor.dispose();
    }
  }
  return whole;
}

async function perform(task: Task): Promise<Result> {
  if (task.kind === "draw") {
    const { noise, labels, dim } = task;
    const found = await batched(task.file, labels.length, (ort, from, to) => ({
      noise: new ort.Tensor("float32", noise.subarray(from * dim, to * dim), [to - from, dim]),
      labels: new ort.Tensor("int64", BigInt64Array.from(labels.slice(from, to), BigInt), [to - from]),
    }));
    return { images: found["images"]! };
  }
  const { images, side } = task;
  const found = await batched(task.file, images.length / side ** 2, (ort, from, to) => ({
    images: new ort.Tensor("float32", images.subarray(from * side ** 2, to * side ** 2), [to - from, 1, side, side]),
  }));
  return { logits: found["logits"]!, features: found["features"]! };
}

self.addEventListener("message", ({ data }: MessageEvent<Task>) => {
  const said = (error: unknown): Answer => ({ error: String(error) });
  void perform(data).catch(said).then((answer: Answer) => self.postMessage(answer));
});
