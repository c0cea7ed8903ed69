/**
 * Where WebAssembly gives other logits than Node.js: it multiplies codes in blocks (MatMulNBits) by activations as they
 * are, and ONNX Runtime on other processors by activations that were rounded to int8, if the graph allows it. Graphs
 * that do not allow it give the same logits.
 */

import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { InferenceSession } from "onnxruntime-node";
import { load } from "../src/index.js";
import { ANSWER, BUNDLES, differenceOf, LARGEST, largestDifference, MESSAGES } from "./old_bundles.js";
import { changeSessions } from "./sessions.js";

/** An attribute of an operator: its name, and an integer. */
const ROUNDED = "accuracy_level\x18\x04";
const FLOATS = "accuracy_level\x18\x01";

/** A copy of a bundle of target `cpu` whose codes in blocks are multiplied by floats. */
function withFloats(context: TestContext, version: number): string {
  const folder = mkdtempSync(join(tmpdir(), "qvl-web-"));
  context.after(() => rmSync(folder, { recursive: true }));
  cpSync(`${BUNDLES}/v${version}`, folder, { recursive: true });
  const models = ["llm.onnx", "llm_decode.onnx"].map((name) => join(folder, name)).filter((path) => existsSync(path));
  const replaced = models.map((path) => {
    const parts = readFileSync(path, "latin1").split(ROUNDED);
    writeFileSync(path, parts.join(FLOATS), "latin1");
    return parts.length - 1;
  });
  assert.ok(Math.max(...replaced) > 0);
  return folder;
}

async function logitsOf(bundle: string, backend: "node" | "wasm"): Promise<Float32Array[]> {
  const model = await load(bundle, { threads: 1, backend });
  const logits = await model.logits(MESSAGES, ANSWER);
  await model.close();
  return logits;
}

for (const version of [3, 4, 5, 7]) {
  test(`WebAssembly rounds no activations of codes in blocks, version ${version}`, async (context) => {
    const found = await logitsOf(`${BUNDLES}/v${version}`, "wasm");
    assert.ok(differenceOf(version, found) > 5 * LARGEST);
    if (version === 5) {
      // of standard operators, which ONNX Runtime fuses
      changeSessions(context, InferenceSession, { session: { qdq_matmulnbits_accuracy_level: "1" } });
    }
    const expected = await logitsOf(version === 5 ? `${BUNDLES}/v5` : withFloats(context, version), "node");
    const largest = largestDifference(expected, found);
    assert.ok(largest < LARGEST, `${largest}`);
  });
}
