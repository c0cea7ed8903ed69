/** Builds the demo into one folder of static files, `demo/dist`, from the built package. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

/** With these a page may use several threads. */
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Without remarks on how long plugins take. */
const QUIET = { checks: { pluginTimings: false } };

/** Copies the fonts, tables and decoders that pdf.js fetches when a PDF needs them. */
function pdfjsFolders(): Plugin {
  const root = new URL("../node_modules/pdfjs-dist/", import.meta.url);
  return {
    name: "pdfjs-folders",
    apply: "build",
    generateBundle() {
      for (const folder of ["cmaps", "iccs", "standard_fonts", "wasm"]) {
        for (const name of readdirSync(new URL(folder, root))) {
          const path = `${folder}/${name}`;
          this.emitFile({ type: "asset", fileName: `pdfjs/${path}`, source: readFileSync(new URL(path, root)) });
        }
      }
    },
  };
}

/** Writes the service worker, with the names of all files of the build. */
function serviceWorker(): Plugin {
  return {
    name: "service-worker",
    apply: "build",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const files = Object.keys(bundle).sort();
        const hash = createHash("sha256");
        for (const name of files) {
          const item = bundle[name];
          hash.update(name).update(item.type === "chunk" ? item.code : item.source);
        }
        const source = readFileSync(new URL("service_worker.js", import.meta.url), "utf8")
          .replace('["__FILES__"]', JSON.stringify(["./", ...files]))
          .replace("__VERSION__", hash.digest("hex").slice(0, 16));
        this.emitFile({ type: "asset", fileName: "service_worker.js", source });
      },
    },
  };
}

export default defineConfig({
  base: "./",
  resolve: { alias: { "qvl-runtime": new URL("../dist/index.js", import.meta.url).pathname } },
  worker: { format: "es", rolldownOptions: QUIET },
  build: { outDir: "dist", emptyOutDir: true, target: "es2022", chunkSizeWarningLimit: 2000, rolldownOptions: QUIET },
  server: { headers: HEADERS },
  preview: { headers: HEADERS },
  plugins: [pdfjsFolders(), serviceWorker()],
});
