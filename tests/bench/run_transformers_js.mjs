/**
 * Answers about one picture in transformers.js, once for every line of standard input, and prints the seconds as JSON.
 *
 * node run_transformers_js.mjs INSTALLED MODEL THREADS TOKENS TEXT RAW WIDTH HEIGHT
 *
 * INSTALLED is the folder in which the package is installed, RAW a file of RGB bytes.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [installed, path, threads, tokens, text, raw, width, height] = process.argv.slice(2);
const package_ = `${installed}/node_modules/@huggingface/transformers/dist/transformers.node.mjs`;
const { AutoProcessor, env, Qwen2VLForConditionalGeneration, RawImage } = await import(pathToFileURL(package_));
env.allowRemoteModels = false;

const processor = await AutoProcessor.from_pretrained(path);
const model = await Qwen2VLForConditionalGeneration.from_pretrained(path, {
  dtype: "fp32", // as the files are named, whatever is in them
  device: "cpu",
  use_external_data_format: true,
  session_options: { intraOpNumThreads: Number(threads) },
});
const image = new RawImage(new Uint8Array(readFileSync(raw)), Number(width), Number(height), 3);
const content = [{ type: "image" }, { type: "text", text }];
const prompt = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });

async function answer() {
  const times = [];
  const streamer = { put: () => times.push(performance.now()), end: () => {} };
  const began = performance.now();
  const inputs = await processor(prompt, image);
  const count = Number(tokens);
  const options = { max_new_tokens: count, min_new_tokens: count, do_sample: false, streamer };
  const ids = await model.generate({ ...inputs, ...options });
  const [, first, ...rest] = times; // before it the prompt
  const seconds = { first: (first - began) / 1e3, rest: (rest.at(-1) - first) / 1e3 };
  return { ...seconds, tokens: ids.tolist()[0].slice(-count).map(Number), prompt: inputs.input_ids.dims[1] };
}

console.log("loaded");
for await (const _ of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer()));
