/**
 * Bundles whose codes may saturate are run exactly where the engine can, and refused where it cannot.
 *
 * The test product is forced, so that any processor stands for those with and without VNNI.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { InferenceSession } from "onnxruntime-common";
import { InferenceSession as NodeSession } from "onnxruntime-node";
import { InferenceSession as WebSession } from "onnxruntime-web"; // its entry of Node.js
import { readManifest } from "../src/bundle.js";
import { openFiles } from "../src/files.js";
import { load } from "../src/index.js";
import { openRuntime } from "../src/sessions/onnxruntime.js";
import { PROBE, productConfig } from "../src/sessions/saturation.js";
import { ANSWER, BUNDLES, MESSAGES } from "./old_bundles.js";
import { wrapCreate } from "./sessions.js";

const OPTION = "x64quantprecision";
const PYTHON = "../python/qvl_runtime/_onnxruntime/saturation.onnx";
const ENGINES = { node: NodeSession, wasm: WebSession };

interface Forced {
  /** Sessions of test products. */
  probes: number;
  /** Whether the option was asked for, session by session. */
  asked: boolean[];
  warnings: string[];
}

/** Makes test products saturate: "always", or unless the option is there. */
function force(context: TestContext, backend: "node" | "wasm", saturates: "always" | "without" | "never"): Forced {
  const seen: Forced = { probes: 0, asked: [], warnings: [] };
  wrapCreate(context, ENGINES[backend], (open) => async (model: unknown, options) => {
    const asked = (options.extra?.session as Record<string, string> | undefined)?.[OPTION] === "1";
    const session = await open(model as never, options);
    if (!isProbe(model)) {
      seen.asked.push(asked);
      return session;
    }
    seen.probes += 1;
    return saturates === "always" || (saturates === "without" && !asked) ? wrong(session) : session;
  });
  context.mock.method(console, "warn", (line: string) => seen.warnings.push(line));
  return seen;
}

function isProbe(model: unknown): boolean {
  return model instanceof Uint8Array && Buffer.from(model).toString("base64") === PROBE;
}

/** A session with the sums that 16 bits hold. */
function wrong(session: InferenceSession): InferenceSession {
  const run = async () => ({ y: { data: new Int32Array(16).fill(32 * 32767) } });
  return { run, release: () => session.release() } as unknown as InferenceSession;
}

test("the test product is that of the Python runtime", () => {
  assert.equal(PROBE, readFileSync(PYTHON).toString("base64"));
});

async function logitsOf(version: number, backend: "node" | "wasm"): Promise<Float32Array[]> {
  const model = await load(`${BUNDLES}/v${version}`, { threads: 1, backend });
  const logits = await model.logits(MESSAGES, ANSWER);
  await model.close();
  return logits;
}

/** int8 for a processor with VNNI, and portable int8 and int4, which are no slower for it. */
const CASES: [number, "node" | "wasm", number][] = [
  [4, "node", 1],
  [5, "node", 0],
  [6, "node", 0],
  [4, "wasm", 1],
];

for (const [version, backend, warnings] of CASES) {
  test(`version ${version} gives the same logits where products saturate, ${backend}`, async (context) => {
    const expected = await logitsOf(version, backend);
    const seen = force(context, backend, "without");
    assert.deepEqual(await logitsOf(version, backend), expected);
    assert.equal(seen.probes, 2);
    assert.deepEqual(new Set(seen.asked), new Set([true]));
    assert.equal(seen.warnings.length, warnings);
    if (warnings) assert.match(seen.warnings[0], /slow on this processor, .* \(export the checkpoint with --cpu any/);
  });

  test(`version ${version} is refused where nothing makes products exact, ${backend}`, async (context) => {
    const seen = force(context, backend, "always");
    const message = /^[^\n]*v\d: the products of its int8 codes saturate in this engine \(export the checkpoint/;
    await assert.rejects(() => load(`${BUNDLES}/v${version}`, { backend }), { name: "BundleError", message });
    assert.deepEqual(seen.asked, []);
  });
}

test("exact products need no option, and floats no test", async (context) => {
  const seen = force(context, "node", "never");
  await logitsOf(4, "node");
  assert.equal(seen.probes, 1);
  await logitsOf(1, "node");
  assert.equal(seen.probes, 1);
  assert.deepEqual(new Set(seen.asked), new Set([false]));
  assert.deepEqual(seen.warnings, []);
});

test("target web, which has no products of bytes, needs no test product", async () => {
  const manifest = await readManifest(await openFiles(`${BUNDLES}/v4`));
  const runtime = { ...(await openRuntime("node")), open: () => assert.fail("a test product was opened") };
  const config = (target: string) => productConfig(runtime, { ...manifest, target }, 1, "here");
  assert.deepEqual(await config("web"), {});
  await assert.rejects(config("cpu"), /a test product was opened/);
});
