/** Bundles of earlier versions give the logits of their time, and what cannot be run is refused by name. */

import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type LoadOptions, load, type Message } from "../src/index.js";
import { ANSWER, BUNDLES, differenceOf, LARGEST, MESSAGES, ramp } from "./old_bundles.js";

/** Of the others in WebAssembly, see `accuracy.test.ts`. */
const RUN: [number, LoadOptions["backend"]][] = [
  [1, "node"],
  [2, "node"],
  [5, "node"],
  [6, "node"],
  [3, "node"],
  [4, "node"],
  [7, "node"],
  [8, "node"],
  [1, "wasm"],
  [6, "wasm"],
  [8, "wasm"],
];

for (const [version, backend] of RUN) {
  test(`the bundle of version ${version} gives its logits, ${backend}`, async () => {
    const model = await load(`${BUNDLES}/v${version}`, { threads: 1, backend });
    const largest = differenceOf(version, await model.logits(MESSAGES, ANSWER));
    await model.close();
    assert.ok(largest < LARGEST, `${largest}`);
  });
}

for (const backend of ["node", "wasm"] as const) {
  test(`a bundle is read from a URL, ${backend}`, async (context) => {
    const server = createServer((request, response) => {
      const path = `${BUNDLES}/v1${request.url?.slice("/bundle".length)}`;
      const found = existsSync(path);
      response.writeHead(found ? 200 : 404).end(found ? readFileSync(path) : undefined);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    context.after(() => server.close());
    const { port } = server.address() as AddressInfo;
    const model = await load(`http://127.0.0.1:${port}/bundle/`, { threads: 1, backend });
    const local = await load(`${BUNDLES}/v1`, { threads: 1, backend });
    assert.deepEqual(await model.logits(MESSAGES, ANSWER), await local.logits(MESSAGES, ANSWER));
    await Promise.all([model.close(), local.close()]);
    const problem = { name: "BundleError", message: /bundle.json: cannot be fetched: HTTP 404/ };
    await assert.rejects(() => load(`http://127.0.0.1:${port}/bundle/none`), problem);
  });
}

test("the bundle of version 9 is refused", async () => {
  const message = /qwen3_5 has linear attention, which this runtime does not run/;
  await assert.rejects(() => load(`${BUNDLES}/v9`), { name: "BundleError", message });
});

/** A copy of a bundle, to be damaged; removed after the test. */
function copied(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "qvl-web-"));
  context.after(() => rmSync(folder, { recursive: true }));
  cpSync(`${BUNDLES}/v1`, folder, { recursive: true });
  return folder;
}

function edited(folder: string, change: (manifest: Record<string, unknown>) => void): void {
  const manifest = JSON.parse(readFileSync(`${folder}/bundle.json`, "utf8"));
  change(manifest);
  writeFileSync(`${folder}/bundle.json`, JSON.stringify(manifest));
}

const DAMAGED: Record<string, [(folder: string) => void, RegExp]> = {
  "no manifest": [
    (folder) => rmSync(`${folder}/bundle.json`),
    /bundle.json: is missing: this is not a bundle, .*export` makes/,
  ],
  "a web page for a manifest": [
    (folder) => writeFileSync(`${folder}/bundle.json`, "\n<!doctype html>"),
    /is missing: the server sent a web page \(give the address of the bundle's directory\)/,
  ],
  "no JSON": [(folder) => writeFileSync(`${folder}/bundle.json`, "{"), /is damaged: it is not JSON/],
  "an unknown key": [
    (folder) => edited(folder, (manifest) => Object.assign(manifest, { new: 1 })),
    /is damaged: \$ has the unknown key "new"/,
  ],
  "a size out of bounds": [
    (folder) => edited(folder, ({ image }) => Object.assign(image as object, { patch_size: 0 })),
    /\$\.image\.patch_size is 0/,
  ],
  "a newer version": [
    (folder) => edited(folder, (manifest) => Object.assign(manifest, { schema_version: 99 })),
    /has schema version 99, this runtime reads up to 10/,
  ],
  "another target": [
    (folder) => edited(folder, (manifest) => Object.assign(manifest, { target: "tensorrt" })),
    /is for target tensorrt; this runtime has cpu, portable/,
  ],
  "a file outside": [
    (folder) =>
      edited(folder, ({ files }) => Object.assign(files as object, { "../x": { size: 1, sha256: "0".repeat(64) } })),
    /names a file outside the bundle/,
  ],
  "a truncated file": [
    (folder) => truncateSync(`${folder}/llm.onnx.data`, 100),
    /llm.onnx.data: is truncated: 100 bytes, the manifest says/,
  ],
  "a missing file": [(folder) => rmSync(`${folder}/vision.onnx`), /vision.onnx: is missing from the bundle/],
  "a graph that is none": [
    (folder) => writeFileSync(`${folder}/vision.onnx`, Buffer.alloc(readFileSync(`${folder}/vision.onnx`).length, 255)),
    /vision.onnx: ONNX Runtime rejects it/,
  ],
  "a tokenizer that is none": [
    (folder) => writeFileSync(`${folder}/tokenizer.json`, "x".repeat(readFileSync(`${folder}/tokenizer.json`).length)),
    /tokenizer.json: is not a tokenizer/,
  ],
};

for (const [name, [damage, problem]] of Object.entries(DAMAGED)) {
  test(`a bundle with ${name} is refused in one line`, async (context) => {
    const folder = copied(context);
    damage(folder);
    await assert.rejects(
      () => load(folder),
      (error: Error) => {
        assert.equal(error.name, "BundleError");
        assert.match(error.message, problem);
        assert.ok(!error.message.includes("\n"));
        return true;
      },
    );
  });
}

const UNLOADED: [string, unknown, object, RegExp][] = [
  ["nothing", undefined, {}, /^cannot use undefined as a bundle \(give a path, a URL or a directory handle\)$/],
  ["a number", 5, {}, /^cannot use 5 as a bundle/],
  ["an unknown option", `${BUNDLES}/v1`, { thread: 2 }, /^there is no option "thread" \(there are threads, backend,/],
  ["an unknown backend", `${BUNDLES}/v1`, { backend: "cuda" }, /^backend must be node, wasm, webgpu, got "cuda"$/],
];

for (const [what, bundle, options, message] of UNLOADED) {
  test(`${what} is refused by load in one line`, async () => {
    await assert.rejects(() => load(bundle as string, options), { message });
  });
}

const WRONG: Record<string, [Message[], RegExp]> = {
  "no messages": [[], /there are no messages/],
  "an unknown role": [[{ role: "robot" as "user", content: "a" }], /the role of a message must be one of/],
  "an empty prompt": [[{ role: "user", content: " " }], /the prompt is empty/],
  "an unknown key": [
    [{ role: "user", content: [{ type: "image", image: ramp(56, 56), max_pixel: 9 } as never] }],
    /the content part of type image has the unknown key "max_pixel" \(its keys are type, image,/,
  ],
  "a long image": [
    [{ role: "user", content: [{ type: "image", image: ramp(4, 900) }] }],
    /aspect ratio of 4 × 900 is above 200/,
  ],
  "16 bits per channel": [
    [{ role: "user", content: [{ type: "image", image: { ...ramp(56, 56), data: new Uint16Array(9408) } as never }] }],
    /^image: its data are not bytes \(give a Uint8Array: 8 bits per channel\)$/,
  ],
  "pixels without a size": [
    [{ role: "user", content: [{ type: "image", image: { data: new Uint8Array(9408) } as never }] }],
    /^image: has undefined × undefined pixels \(give its width and height\)$/,
  ],
  "a path, which Node does not decode": [
    [{ role: "user", content: [{ type: "image", image: "page.png" as never }] }],
    /cannot be decoded here \(give decoded pixels/,
  ],
  "a placeholder in a text": [[{ role: "user", content: "<|image_pad|>" }], /has 1 image or video placeholders for 0/],
};

test("messages that cannot be used are refused in one line", async (context) => {
  const model = await load(`${BUNDLES}/v1`, { threads: 1 });
  for (const [name, [messages, problem]] of Object.entries(WRONG)) {
    await context.test(name, () => assert.rejects(() => model.generate(messages), { message: problem }));
  }
  assert.throws(() => model.stream(MESSAGES, { temperature: -1 }), /temperature must be a number >= 0, got -1/);
  assert.throws(() => model.stream(MESSAGES, { max_new_tokens: 1.5 }), /max_new_tokens must be a whole number >= 1/);
  assert.throws(() => model.stream(MESSAGES, { stop: "" }), /stop must be a text or a list of texts, none empty/);
  const wrong = (options: object) => () => model.stream(MESSAGES, options);
  assert.throws(wrong({ stop_loops: 1 }), /stop_loops must be true or false, got 1/);
  assert.throws(
    wrong({ logprobs: 5 }),
    /logprobs must be true or false \(top_logprobs is the number of alternatives\)/,
  );
  assert.throws(wrong({ logprobs: true, top_logprobs: 21 }), /top_logprobs must be a whole number <= 20, got 21/);
  for (const name of ["json_schema", "response_format"]) {
    const message = new RegExp(`^${name} is not supported: the library for grammars, llguidance, has no build for`);
    assert.throws(wrong({ [name]: { type: "object" } }), { name: "PromptError", message });
  }
  assert.throws(wrong({ max_tokens: 5 }), /there is no option "max_tokens" \(there are max_new_tokens, temperature/);
  assert.throws(wrong({ top_logprobs: 2 }), /top_logprobs needs logprobs/);
  await model.close();
  await assert.rejects(() => model.generate(MESSAGES), /the model is closed/);
});
