/** What is asked of a GPU, and what happens to its buffers, with a substitute for one; tests/web has Chromium. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Tensor, type TensorConstructor } from "onnxruntime-common";
import { readManifest } from "../src/bundle.js";
import { openFiles } from "../src/files.js";
import { CACHE_STEP, KvCache } from "../src/sessions/layer_states.js";
import { GpuMemory, openDevice } from "../src/sessions/webgpu.js";
import { BUNDLES } from "./old_bundles.js";

type Asked = { requiredFeatures: string[]; requiredLimits: Record<string, number> };

/** Until the test ends, there is an adapter with these features and subgroups. */
function adapter(context: TestContext, features: string[], info: object | undefined, failure?: string): Asked[] {
  const asked: Asked[] = [];
  const requestDevice = async (options: Asked) => {
    if (failure) throw new Error(failure);
    asked.push(options);
  };
  const found = { features: new Set(features), limits: { maxBufferSize: 2 ** 30 }, info, requestDevice };
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator"); // Node.js has one since release 21
  const value = { gpu: { requestAdapter: async () => found } };
  Object.defineProperty(globalThis, "navigator", { value, configurable: true });
  context.after(() => {
    Reflect.deleteProperty(globalThis, "navigator");
    if (before) Object.defineProperty(globalThis, "navigator", before);
  });
  return asked;
}

const ALL = ["shader-f16", "subgroups", "timestamp-query"];
for (const [what, features, info, expected] of [
  ["wide subgroups", ALL, { subgroupMinSize: 32 }, ["shader-f16", "subgroups"]],
  ["narrow subgroups", ALL, { subgroupMinSize: 4 }, ["shader-f16"]],
  ["subgroups of unknown size", ALL, undefined, ["shader-f16"]],
  ["nothing", [], { subgroupMinSize: 32 }, []],
] as [string, string[], object | undefined, string[]][]) {
  test(`of an adapter with ${what} a device asks what attention can use`, async (context) => {
    const asked = adapter(context, features, info);
    await openDevice();
    assert.deepEqual(asked[0].requiredFeatures, expected);
    assert.equal(asked[0].requiredLimits.maxBufferSize, 2 ** 30);
  });
}

test("an adapter that gives no device is an error that says so", async (context) => {
  adapter(context, [], {}, "it was unplugged");
  const message = 'the WebGPU adapter gives no device: it was unplugged (use backend: "wasm")';
  await assert.rejects(openDevice(), { name: "InstallError", message });
});

interface Buffer {
  size: number;
  destroyed: number;
}

/** A device whose buffers count how often they are destroyed, and what is copied between them. */
function device() {
  const buffers: Buffer[] = [];
  const copies: unknown[][] = [];
  return {
    buffers,
    copies,
    lost: new Promise(() => {}),
    addEventListener: () => {},
    queue: { submit: () => {} },
    createBuffer({ size }: { size: number }) {
      const buffer = { size, destroyed: 0, destroy: () => void buffer.destroyed++ };
      buffers.push(buffer);
      return buffer;
    },
    createCommandEncoder: () => ({
      copyBufferToBuffer: (...copy: unknown[]) => void copies.push(copy),
      finish: () => {},
    }),
  };
}

test("a cache that grows keeps its tokens, and every buffer is destroyed once", async () => {
  const manifest = await readManifest(await openFiles(`${BUNDLES}/v1`));
  const llm = { ...manifest.llm, max_length: 4 * CACHE_STEP };
  const gpu = device();
  const cache = new KvCache({ ...manifest, llm }, new GpuMemory(gpu as never, Tensor as TensorConstructor));
  const count = Object.keys(cache.past).length;
  cache.reserve(300, 0);
  assert.deepEqual([cache.capacity, gpu.copies.length], [CACHE_STEP, 0]);
  cache.reserve(CACHE_STEP + 1, 300);
  assert.deepEqual([cache.capacity, gpu.buffers.length], [2 * CACHE_STEP, 3 * count]);
  assert.deepEqual(
    gpu.buffers.map(({ destroyed }) => destroyed),
    [...Array(2 * count).fill(1), ...Array(count).fill(0)],
  );
  const [, heads, , width] = Object.values(cache.past)[0].dims;
  const bytes = (width * gpu.buffers[count].size) / (heads * CACHE_STEP * width);
  assert.deepEqual(
    gpu.copies.slice(0, heads),
    Array.from({ length: heads }, (_, head) => [
      gpu.buffers[count],
      head * CACHE_STEP * bytes,
      gpu.buffers[2 * count],
      head * 2 * CACHE_STEP * bytes,
      300 * bytes,
    ]),
  );
  cache.dispose();
  assert.ok(gpu.buffers.every(({ destroyed }) => destroyed === 1));
});
