/** A model at the other end of a channel has the methods of one that is here; messages are cloned as for a worker. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { load, type Message, type Model } from "../src/index.js";
import { serveHost } from "../src/worker/host.js";
import type { Port } from "../src/worker/protocol.js";
import { Channel, loadThrough } from "../src/worker/proxy.js";
import { pixels } from "./pictures.js";

const BUNDLE = "../../tests/checkpoints/bundles/v1";
const IMAGE = pixels({ formula: "page", width: 112, height: 84 });
const MESSAGES: Message[] = [
  {
    role: "user",
    content: [
      { type: "image", image: IMAGE },
      { type: "text", text: "Read the text." },
    ],
  },
];
const OPTIONS = { max_new_tokens: 8, ignore_eos: true };

async function opened(context: TestContext, bundle = BUNDLE): Promise<Model> {
  const { port1, port2 } = new MessageChannel();
  context.after(() => port1.close());
  serveHost(port2 as unknown as Port);
  const model = await loadThrough(
    new Channel(port1 as unknown as Port, () => port1.close()),
    bundle,
    { threads: 1 },
    {},
  );
  context.after(() => model.close());
  return model;
}

test("answers, statistics, prompts, regions and logits are the same", async (context) => {
  const there = await opened(context);
  const here = await load(BUNDLE, { threads: 1 });
  context.after(() => here.close());
  const [stream, expected] = [there.stream(MESSAGES, OPTIONS), here.stream(MESSAGES, OPTIONS)];
  const pieces: string[] = [];
  for await (const piece of stream) pieces.push(piece);
  assert.equal(pieces.join(""), await expected.text());
  assert.deepEqual(stream.run.tokens, expected.run.tokens);
  assert.equal(stream.run.finishReason, "length");
  assert.deepEqual(stream.run.counts, expected.run.counts);
  const [prompt, other] = [await stream.prompt, await expected.prompt];
  assert.deepEqual(prompt.ids, other.ids);
  const answer = '{"bbox_2d": [10, 20, 30, 40], "label": "total"}';
  assert.deepEqual(there.regions(answer, prompt.placed[0]), here.regions(answer, other.placed[0]));
  assert.deepEqual(await there.logits(MESSAGES, "12"), await here.logits(MESSAGES, "12"));
  assert.deepEqual(await there.tokenIds("12"), await here.tokenIds("12"));
  assert.deepEqual((await there.prompt(MESSAGES)).ids, other.ids);
  assert.deepEqual(there.manifest, here.manifest);
});

test("log probabilities and the end at a loop are the same", async (context) => {
  const there = await opened(context);
  const here = await load(BUNDLE, { threads: 1 });
  context.after(() => here.close());
  const options = { max_new_tokens: 400, ignore_eos: true, stop_loops: true, logprobs: true, top_logprobs: 3 };
  const [stream, expected] = [there.stream(MESSAGES, options), here.stream(MESSAGES, options)];
  assert.equal(await stream.text(), await expected.text());
  const { logprobs, loop, finishReason, tokens } = stream.run;
  assert.deepEqual([finishReason, loop > 0], ["loop", true]);
  assert.deepEqual([loop, tokens], [expected.run.loop, expected.run.tokens]);
  assert.deepEqual(logprobs, expected.run.logprobs);
  assert.deepEqual(
    logprobs.map(({ token }) => token),
    tokens,
  );
  for (const { token, logprob, top } of logprobs) {
    assert.equal(top.length, 3);
    assert.deepEqual(top[0], [token, logprob]); // greedy
  }
});

test("an answer ends at an abort, and at a break", async (context) => {
  const model = await opened(context);
  const aborting = new AbortController();
  const aborted = model.stream(MESSAGES, { ...OPTIONS, signal: aborting.signal });
  for await (const _ of aborted) aborting.abort();
  assert.equal(aborted.run.finishReason, "cancelled");
  assert.ok(aborted.run.tokens.length < OPTIONS.max_new_tokens);
  const never = model.stream(MESSAGES, { ...OPTIONS, signal: AbortSignal.abort() });
  assert.equal(await never.text(), "");
  assert.equal(never.run.finishReason, "cancelled");
  const left = model.stream(MESSAGES, OPTIONS);
  for await (const _ of left) break;
  assert.equal(left.run.finishReason, "cancelled");
});

test("errors keep their class, and what, where and how to fix it", async (context) => {
  const model = await opened(context);
  assert.throws(() => model.stream(MESSAGES, { top_p: 2 }), { name: "PromptError" });
  const { placed } = await model.prompt([{ role: "user", content: "No image" }]);
  assert.throws(() => model.regions("", placed[0]), { name: "PromptError", what: "the prompt has no such image" });
  const empty = { data: new Uint8Array(), width: 0, height: 0 };
  const bad: Message[] = [{ role: "user", content: [{ type: "image", image: empty }] }];
  await assert.rejects(() => model.generate(bad), { name: "MediaError", where: "image", what: "has 0 × 0 pixels" });
  const uncloned = [{ role: "user", content: "x", extra: () => {} }] as Message[];
  await assert.rejects(() => model.generate(uncloned), {
    name: "PromptError",
    message: /cannot be sent to the worker: .* \(give data, and images as a File,/,
  });
  const first = model.stream(MESSAGES, OPTIONS)[Symbol.asyncIterator]();
  await first.next();
  await model.generate(MESSAGES, OPTIONS);
  await assert.rejects(() => first.next(), { name: "PromptError", message: /another prompt was started/ });
  await assert.rejects(() => opened(context, "none"), { name: "BundleError", where: "none/bundle.json" });
});

test("a closed model refuses calls that wait, and later ones", async (context) => {
  const model = await opened(context);
  const waiting = model.generate(MESSAGES, OPTIONS);
  const refused = assert.rejects(() => waiting, { name: "EngineError", message: /the model is closed/ });
  await model.close();
  await refused;
  await assert.rejects(() => model.generate(MESSAGES), { name: "EngineError", message: /the model is closed/ });
});

test("there are no workers in Node", async () => {
  await assert.rejects(() => load(BUNDLE, { worker: true }), { name: "InstallError" });
});
