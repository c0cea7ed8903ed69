/** What was opened of a bundle is freed if the rest of it cannot be. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { readManifest } from "../src/bundle.js";
import { openFiles } from "../src/files.js";
import type { Manifest } from "../src/manifest.js";
import { openEngine } from "../src/sessions/graphs.js";
import { openRuntime } from "../src/sessions/onnxruntime.js";
import { BUNDLES } from "./old_bundles.js";

/** Opens a bundle of two graphs, calling `before` with the number of each; counts what is opened and freed. */
async function counted(context: TestContext, before: (graph: number) => void) {
  const files = await openFiles(`${BUNDLES}/v1`);
  const manifest = await readManifest(files);
  const real = await openRuntime("node");
  const counts = { opened: 0, released: 0, closed: 0 };
  const create: typeof real.create = async (...args) => {
    before(counts.opened + 1);
    const session = await real.create(...args);
    counts.opened++;
    const release = session.release.bind(session);
    context.mock.method(session, "release", () => {
      counts.released++;
      return release();
    });
    return session;
  };
  const runtime = { ...real, create, close: () => void counts.closed++ };
  const open = (signal?: AbortSignal, changed: Partial<Manifest> = {}) =>
    openEngine(runtime, files, { ...manifest, ...changed }, 1, signal);
  return { counts, open, manifest };
}

test("closing an engine frees its graphs and the runtime once", async (context) => {
  const { counts, open } = await counted(context, () => {});
  const engine = await open();
  await engine.close();
  await engine.close();
  assert.deepEqual(counts, { opened: 2, released: 2, closed: 1 });
});

test("a graph that is rejected frees those before it", async (context) => {
  const { counts, open } = await counted(context, (graph) => {
    if (graph === 2) throw new Error("no such operator");
  });
  await assert.rejects(open(), {
    name: "BundleError",
    message: /llm\.onnx: ONNX Runtime rejects it: no such operator/,
  });
  assert.deepEqual(counts, { opened: 1, released: 1, closed: 1 });
});

test("a graph with other inputs is freed, too", async (context) => {
  const { counts, open, manifest } = await counted(context, () => {});
  const { vision, llm } = manifest.graphs;
  const inputs = [...llm.inputs, { ...llm.inputs[0], name: "other" }];
  await assert.rejects(
    open(undefined, { graphs: { vision, llm: { ...llm, inputs } } }),
    /has no input or output other/,
  );
  assert.deepEqual(counts, { opened: 2, released: 2, closed: 1 });
});

test("an abort frees what is open, and opens nothing further", async (context) => {
  const control = new AbortController();
  const { counts, open } = await counted(context, () => control.abort());
  await assert.rejects(open(control.signal), { name: "AbortError" });
  assert.deepEqual(counts, { opened: 1, released: 1, closed: 1 });
  await assert.rejects(open(control.signal), { name: "AbortError" });
  assert.deepEqual(counts, { opened: 1, released: 1, closed: 2 });
});
