/**
 * The packages that a bundle needs, imported when it is loaded.
 *
 * Bundlers and Node find them by their names, pages without a bundler by an import map. A worker has no import map: the
 * page that starts it says where packages are.
 */

import { isNode } from "./common/host.js";

const NAMES = [
  "@huggingface/jinja",
  "@huggingface/tokenizers",
  "@noble/hashes/sha2.js",
  "onnxruntime-web/wasm",
  "onnxruntime-web/webgpu",
  "pdfjs-dist/legacy/build/pdf.mjs",
  "pdfjs-dist/legacy/build/pdf.worker.mjs",
] as const;

export type Places = Partial<Record<(typeof NAMES)[number], string>>;

let places: Places = {};

/** The addresses of packages by the page's import map; none where a bundler has put them into the program. */
export function placesOfPage(): Places {
  return Object.fromEntries(NAMES.flatMap((name) => placeOf(name)));
}

/** A name and its address, if the import map has it. */
function placeOf(name: string): [string, string][] {
  try {
    return [[name, import.meta.resolve(name)]];
  } catch {
    return [];
  }
}

/** The addresses that were set here, for a worker of this worker; else those of the page. */
export function knownPlaces(): Places {
  return Object.keys(places).length > 0 ? places : placesOfPage();
}

export function setPlaces(found: Places): void {
  places = found;
}

export function importJinja(): Promise<typeof import("@huggingface/jinja")> {
  const place = places["@huggingface/jinja"];
  return place === undefined ? import("@huggingface/jinja") : import(/* @vite-ignore */ place);
}

export function importTokenizers(): Promise<typeof import("@huggingface/tokenizers")> {
  const place = places["@huggingface/tokenizers"];
  return place === undefined ? import("@huggingface/tokenizers") : import(/* @vite-ignore */ place);
}

export function importHashes(): Promise<typeof import("@noble/hashes/sha2.js")> {
  const place = places["@noble/hashes/sha2.js"];
  return place === undefined ? import("@noble/hashes/sha2.js") : import(/* @vite-ignore */ place);
}

/** The entry of Node.js, where that for pages starts no threads; no literal, so that bundlers do not add it to pages. */
const NODE_ENTRY: string = "onnxruntime-web";

export function importOnnxRuntimeWeb(): Promise<typeof import("onnxruntime-web/wasm")> {
  const place = isNode() ? NODE_ENTRY : places["onnxruntime-web/wasm"];
  return place === undefined ? import("onnxruntime-web/wasm") : import(/* @vite-ignore */ place);
}

export function importOnnxRuntimeWebGpu(): Promise<typeof import("onnxruntime-web/webgpu")> {
  const place = places["onnxruntime-web/webgpu"];
  return place === undefined ? import("onnxruntime-web/webgpu") : import(/* @vite-ignore */ place);
}

/** The build for older browsers and Node.js. */
export function importPdfjs(): Promise<typeof import("pdfjs-dist/legacy/build/pdf.mjs")> {
  const place = places["pdfjs-dist/legacy/build/pdf.mjs"];
  return place === undefined ? import("pdfjs-dist/legacy/build/pdf.mjs") : import(/* @vite-ignore */ place);
}

export function importPdfjsWorker(): Promise<unknown> {
  const place = places["pdfjs-dist/legacy/build/pdf.worker.mjs"];
  // @ts-expect-error the package has no types of its worker
  return place === undefined ? import("pdfjs-dist/legacy/build/pdf.worker.mjs") : import(/* @vite-ignore */ place);
}

/** Where the folder of pdfjs-dist is, with a slash at its end; null where a bundler has put its programs elsewhere. */
export function pdfjsFolder(): string | null {
  const place = knownPlaces()["pdfjs-dist/legacy/build/pdf.mjs"];
  return place === undefined ? null : new URL("../../", place).href;
}
