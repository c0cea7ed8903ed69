/** WebAssembly with several threads in Node.js, in a process of its own: the first session decides how many there are. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "../src/index.js";
import { ANSWER, BUNDLES, differenceOf, LARGEST, MESSAGES } from "./old_bundles.js";

test("two threads give the same logits, and end with the model's process", async () => {
  const model = await load(`${BUNDLES}/v1`, { threads: 2, backend: "wasm" });
  const largest = differenceOf(1, await model.logits(MESSAGES, ANSWER));
  await model.close();
  assert.ok(largest < LARGEST, `${largest}`);
});
