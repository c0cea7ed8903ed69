/**
 * Answers about one picture, once for every line of standard input, and prints the seconds as JSON.
 *
 * node build/test/speed.js BUNDLE BACKEND THREADS TOKENS TEXT RAW WIDTH HEIGHT
 *
 * RAW is a file of RGB bytes.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { load } from "../src/index.js";
import type { Backend } from "../src/sessions/backend.js";

const [bundle, backend, threads, tokens, text, raw, width, height] = process.argv.slice(2);
const model = await load(bundle, { backend: backend as Backend, threads: Number(threads) });
const image = { data: new Uint8Array(readFileSync(raw)), width: Number(width), height: Number(height) };

async function answer(): Promise<Record<string, unknown>> {
  await model.clear();
  const began = performance.now();
  const content = [
    { type: "image" as const, image },
    { type: "text" as const, text },
  ];
  const stream = model.stream([{ role: "user", content }], { max_new_tokens: Number(tokens), ignore_eos: true });
  await stream.text();
  const all = (performance.now() - began) / 1e3;
  const { times, counts, tokens: ids } = stream.run;
  return { first: all - times.decode, rest: times.decode, vision: times.vision, tokens: ids, prompt: counts.prompt };
}

console.log("loaded");
for await (const _ of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer()));
