// Builds the page into the Python package: `npm run build`, or `npm run build -- FOLDER`.
import { build } from "esbuild";
import { cp } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/lekhani/serve/page_files");

await build({
  absWorkingDir: here,
  entryPoints: { studio: "src/main.ts", style: "src/studio.css" },
  outdir: out,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  external: ["./font/*", "./ort/*"],
});
for (const name of ["index.html", "icon.svg"]) await cp(join(here, "src", name), join(out, name));
