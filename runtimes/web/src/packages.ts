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
] as const;

export type Places = Partial<Record<(typeof NAMES)[number], string>>;

let places: Places = {};

/** The addresses of packages by the page's import map; none where a bundler has put them into the program. */
export function placesOfPage(): Places {
  try {
    return Object.fromEntries(NAMES.map((name) => [name, import.meta.resolve(name)]));
  } catch {
    return {};
  }
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
