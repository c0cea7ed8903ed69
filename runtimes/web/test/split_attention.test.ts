/** Full attention in parts: what WebAssembly computes of a large page is what Node.js computes in one part. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readManifest } from "../src/bundle.js";
import { openFiles } from "../src/files.js";
import { openEngine } from "../src/sessions/graphs.js";
import { openRuntime } from "../src/sessions/onnxruntime.js";
import { splitAttention } from "../src/sessions/split_attention.js";
import { BUNDLES, largestDifference } from "./old_bundles.js";

const V1 = `${BUNDLES}/v1`;

async function featuresOf(backend: "node" | "wasm", grid: { t: number; h: number; w: number }) {
  const files = await openFiles(V1, {});
  const manifest = await readManifest(files);
  const engine = await openEngine(await openRuntime(backend), files, manifest, 1);
  const { patch_size: side, temporal_patch_size: depth } = manifest.image;
  const pixels = Float32Array.from({ length: grid.h * grid.w * 3 * depth * side * side }, (_, at) => Math.sin(at));
  const { layers } = await engine.encode(pixels, grid, null);
  await engine.close();
  return layers;
}

test("a page whose scores overflow 32 bits in one part is encoded", async () => {
  const grid = { t: 1, h: 92, w: 92 };
  const [expected, found] = [await featuresOf("node", grid), await featuresOf("wasm", grid)];
  const largest = largestDifference(expected, found);
  assert.ok(largest < 1e-3, `${largest}`);
});

test("models without attention to split are not changed", () => {
  for (const name of ["v1/llm.onnx", "v5/vision.onnx", "v8/vision.onnx"]) {
    const model = readFileSync(`${BUNDLES}/${name}`);
    assert.equal(splitAttention(model), model);
  }
  assert.equal(splitAttention(Uint8Array.of(255, 255, 255)).length, 3);
});
