// Builds the page into the Python package: `npm run build`, or `npm run build -- FOLDER`.
import { build } from "esbuild";
import { cp } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/lekhani/serve/page_files");

await build({
  absWorkingDir: here,
  entryPoints: { studio: "src/main.ts", style: "src/studio.css", worker: "src/local/worker.ts" },
  outdir: out,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  splitting: true, // the served page does not load what the static edition needs
  chunkNames: "[name]",
  external: ["./font/*"],
});
await cp(join(here, "src/index.html"), join(out, "index.html"));
