/**
 * Bundles answer as in the Python runtime: the same greedy tokens in fp32.
 *
 * `tests/web/test_web.py` exports the bundles, and writes what Python answers to the file that QVL_WEB_ANSWERS names.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { after, test } from "node:test";
import { load, type Model, type TokenLogprob } from "../src/index.js";
import type { Backend } from "../src/sessions/backend.js";
import { messagesOf, type Question } from "./messages.js";

interface Answer extends Question {
  name: string;
  bundle: string;
  backend: Backend;
  ids: number[];
  tokens: number[];
  text: string;
  finish_reason: string;
  loop: number;
  logprobs: [token: number, logprob: number, top: [number, number][]][];
  regions: { label: string; numbers: number[] }[];
}

const FILE = process.env.QVL_WEB_ANSWERS;
const ANSWERS: Answer[] = FILE ? JSON.parse(readFileSync(FILE, "utf8")) : [];
const models = new Map<string, Model>();

test("there are bundles to test", { skip: ANSWERS.length === 0 && "run pytest tests/web, which makes them" }, () => {
  assert.ok(ANSWERS.length > 0);
});

after(async () => {
  for (const model of models.values()) await model.close();
});

async function opened({ bundle, backend }: Pick<Answer, "bundle" | "backend">): Promise<Model> {
  const key = `${bundle} ${backend}`;
  const known = models.get(key);
  if (known) return known;
  const model = await load(bundle, { backend, threads: 1 });
  models.set(key, model);
  return model;
}

/** Of a log probability, from Python's: its ONNX Runtime is another release. */
const LOGPROB = 1e-3;

function checkLogprobs(found: readonly TokenLogprob[], expected: Answer["logprobs"]): void {
  assert.deepEqual(
    found.map(({ token, top }) => [token, top.map(([each]) => each)]),
    expected.map(([token, , top]) => [token, top.map(([each]) => each)]),
  );
  const values = (logprob: number, top: readonly [number, number][]) => [logprob, ...top.map(([, value]) => value)];
  const theirs = expected.flatMap(([, logprob, top]) => values(logprob, top));
  const differences = found
    .flatMap(({ logprob, top }) => values(logprob, top))
    .map((value, at) => Math.abs(value - theirs[at]));
  assert.ok(Math.max(0, ...differences) < LOGPROB, `${Math.max(...differences)}`);
}

for (const answer of ANSWERS) {
  test(`${basename(answer.bundle)}, ${answer.backend}: ${answer.name}`, async () => {
    const model = await opened(answer);
    const stream = model.stream(await messagesOf(answer), answer.options);
    assert.equal(await stream.text(), answer.text);
    assert.deepEqual((await stream.prompt).ids, answer.ids);
    assert.deepEqual(stream.run.tokens, answer.tokens);
    assert.equal(stream.run.finishReason, answer.finish_reason);
    assert.equal(stream.run.loop, answer.loop);
    checkLogprobs(stream.run.logprobs, answer.logprobs);
    const { placed } = await stream.prompt;
    if (answer.regions.length === 0 || placed.length !== 1) return;
    const found = model.regions(answer.text, placed[0]);
    assert.deepEqual(
      found.map(({ label, ...numbers }) => ({ label, numbers: Object.values(numbers) })),
      answer.regions,
    );
  });
}

/** Teacher-forced: the likeliest token of Python at each place of the true answers of some pages. */
interface Forced {
  bundle: string;
  backend: Backend;
  pages: (Pick<Question, "messages"> & { answer: string; likeliest: number[] })[];
}

const FORCED: Forced[] = process.env.QVL_WEB_FORCED ? JSON.parse(readFileSync(process.env.QVL_WEB_FORCED, "utf8")) : [];
/** Of the likeliest tokens: this ONNX Runtime is another release than Python's. */
const AGREEMENT = 0.99;

for (const { bundle, backend, pages } of FORCED) {
  test(`${basename(bundle)}, ${backend}: the likeliest tokens are those of Python`, async (context) => {
    const model = await opened({ bundle, backend });
    let [same, all] = [0, 0];
    for (const { messages, answer, likeliest } of pages) {
      const rows = await model.logits(await messagesOf({ messages }), answer);
      const found = rows.map((row) => row.indexOf(row.reduce((most, value) => Math.max(most, value))));
      same += found.filter((token, index) => token === likeliest[index]).length;
      all += likeliest.length;
    }
    context.diagnostic(`${same} of ${all}`);
    assert.ok(same / all >= AGREEMENT);
  });
}

const first = ANSWERS.find(({ backend, options }) => backend === "node" && Object.keys(options).length <= 1);
const skip = first === undefined && "there are no bundles";

test("a second question about a page reuses its tokens, and answers as the first time", { skip }, async () => {
  const model = await opened(first!);
  await model.clear();
  const messages = await messagesOf(first!);
  const fresh = model.stream(messages, first!.options);
  await fresh.text();
  assert.equal(fresh.run.counts.reused, 0);
  const again = model.stream(messages, first!.options);
  assert.equal(await again.text(), first!.text);
  assert.equal(again.run.counts.reused, first!.ids.length - 1);
  assert.equal(again.run.times.vision, 0);
});

test("an answer ends at an abort, a break, and a stop string", { skip }, async () => {
  const model = await opened(first!);
  const aborting = new AbortController();
  const aborted = model.stream(await messagesOf(first!), { ...first!.options, signal: aborting.signal });
  for await (const _ of aborted) aborting.abort();
  assert.equal(aborted.run.finishReason, "cancelled");
  assert.equal(aborted.run.tokens.length, 1);
  const left = model.stream(await messagesOf(first!), first!.options);
  for await (const _ of left) break;
  assert.equal(left.run.finishReason, "cancelled");
  const stop = first!.text.slice(3, 6);
  const stopped = model.stream(await messagesOf(first!), { ...first!.options, stop });
  assert.equal(await stopped.text(), first!.text.slice(0, first!.text.indexOf(stop)));
  assert.equal(stopped.run.stopString, stop);
});

test("of streams that are read at the same time one answers", { skip }, async () => {
  const model = await opened(first!);
  const messages = await messagesOf(first!);
  const settled = await Promise.allSettled(Array.from({ length: 3 }, () => model.generate(messages, first!.options)));
  const answered = settled.filter(({ status }) => status === "fulfilled");
  assert.deepEqual(answered, [{ status: "fulfilled", value: first!.text }]);
  assert.equal(await model.generate(messages, first!.options), first!.text);
});

test("a second stream ends the first with an error", { skip }, async () => {
  const model = await opened(first!);
  const pieces = model.stream(await messagesOf(first!), first!.options)[Symbol.asyncIterator]();
  await pieces.next();
  await model.generate(await messagesOf(first!), first!.options);
  await assert.rejects(() => pieces.next(), /another prompt was started on this model/);
});
