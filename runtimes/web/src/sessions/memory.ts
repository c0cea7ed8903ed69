/** Refuses bundles that WebAssembly cannot hold, by what the manifest says, before their weights are read. */

import { product } from "../common/arrays.js";
import { BundleError } from "../errors.js";
import { cacheTensors, ELEMENT_BYTES, type Manifest } from "../manifest.js";

/** The address space of wasm32. */
const MEMORY = 2 ** 32;
/** The longest array of bytes in Chromium, a little below 2 GiB: files are handed over whole. */
const LARGEST_FILE = 2 ** 31 - 2 ** 22;
/** Tokens of a small page and a short answer: who cannot hold these cannot use the bundle. */
const TOKENS = 1024;
/** Calls copy the cache in and out. */
const CACHE_COPIES = 2;
const SMALLER = "export it with --precision int4 or a smaller checkpoint, or run it in Node.js with onnxruntime-node";

/** Throws BundleError if a file of the graphs is longer than an array can be. */
export function checkFileSizes(manifest: Manifest, files: readonly string[], where: string): void {
  for (const name of files) {
    const { size } = manifest.files[name];
    if (size > LARGEST_FILE) {
      throw new BundleError(`${name} has ${gigabytes(size)}; browsers read files of up to 2 GB`, {
        where,
        fix: SMALLER,
      });
    }
  }
}

/** Throws BundleError if the files of the graphs, and the cache of a small page, do not fit. */
export function checkMemory(manifest: Manifest, files: readonly string[], where: string): void {
  checkFileSizes(manifest, files, where);
  const weights = files.reduce((sum, name) => sum + manifest.files[name].size, 0);
  const cache = CACHE_COPIES * cacheBytes(manifest, TOKENS);
  if (weights + cache > MEMORY) {
    const needs = `${gigabytes(weights)} of weights and ${gigabytes(cache)} of cache`;
    throw new BundleError(`needs ${needs}, more than the 4 GB of WebAssembly`, { where, fix: SMALLER });
  }
}

/** Bytes that layers keep of a prompt. */
function cacheBytes(manifest: Manifest, tokens: number): number {
  const sizes = cacheTensors(manifest).map(({ dtype, shape }) => {
    const elements = product(shape.map((axis) => (axis === "past" ? tokens : axis)));
    return elements * ELEMENT_BYTES[dtype];
  });
  return sizes.reduce((sum, size) => sum + size, 0);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GB`;
}
