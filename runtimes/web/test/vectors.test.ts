/** This runtime computes what the conformance vectors say (`tests/conformance`). */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { recording, type TokenLogprob } from "../src/answers/logprobs.js";
import { LoopDetector } from "../src/answers/loops.js";
import { penalizedPicker } from "../src/answers/penalties.js";
import { generator } from "../src/answers/random.js";
import { nucleus, samplingPicker } from "../src/answers/sampling.js";
import { StopStrings } from "../src/answers/stop_strings.js";
import { resizeBicubic } from "../src/bicubic.js";
import type { Feeds, GraphArray } from "../src/common/arrays.js";
import { parseRegions } from "../src/grounding.js";
import type { ImageGeometry, Manifest } from "../src/manifest.js";
import { budgetOf, evenlySpaced, frameBounds } from "../src/media/video.js";
import { parsePages, scaled } from "../src/pdf.js";
import * as positions from "../src/positions.js";
import { imageTokens, patchify, resizedGrid } from "../src/preprocess.js";
import type { Message } from "../src/prompts/content.js";
import { buildPrompt } from "../src/prompts/prompt.js";
import { patchTimes, writeTimes } from "../src/prompts/timestamps.js";
import { keptBlocks } from "../src/prune/blocks.js";
import { smartResize } from "../src/resize.js";
import { cacheState, visionFeeds } from "../src/sessions/feeds.js";
import { ChatTemplate } from "../src/templates/chat.js";
import { encode, parseTokenizer, TokenDecoder } from "../src/templates/tokenizer.js";
import { parseCalls } from "../src/tools.js";
import { hashOf, type Picture, pixels } from "./pictures.js";

const VECTORS = "../../tests/conformance";
const TOKENIZER = await parseTokenizer(
  readFileSync("../../tests/checkpoints/reference/tokenizer.json", "utf8"),
  "tokenizer.json",
);

// biome-ignore lint/suspicious/noExplicitAny: each file has inputs and outputs of its own
type Values = Record<string, any>;
type Check = (given: Values, out: Values, shared: Values) => void | Promise<void>;

function vectors(name: string, check: Check): void {
  const document = JSON.parse(readFileSync(`${VECTORS}/${name}.json`, "utf8"));
  for (const one of document.cases) {
    test(`${name}: ${one.name}`, () => check(one.in, one.out, document.shared));
  }
}

function grid([t, h, w]: number[]): positions.Grid {
  return { t, h, w };
}

function numbers(array: GraphArray): number[] {
  return Array.from(array.data as ArrayLike<number | bigint>, Number);
}

function pairs(values: ArrayLike<number>): number[][] {
  return Array.from({ length: values.length / 2 }, (_, index) => [values[2 * index], values[2 * index + 1]]);
}

vectors("smart_resize", ({ height, width, factor, min_pixels, max_pixels }, out) => {
  assert.deepEqual(smartResize(height, width, factor, min_pixels, max_pixels), [out.height, out.width]);
});

vectors("resize", (given, out, { images }) => {
  const image: ImageGeometry = images[given.image];
  const found = resizedGrid(given.size, given.frames, image, given.max_pixels ?? image.max_pixels);
  assert.deepEqual(found, grid(out.grid));
  assert.deepEqual([found.w * image.patch_size, found.h * image.patch_size], out.size);
  assert.equal(imageTokens(found, image), out.image_tokens);
});

vectors("bicubic", async ({ picture, size }, out) => {
  const { data } = resizeBicubic(pixels(picture), size[0], size[1]);
  if (out.pixels) assert.deepEqual([...data], out.pixels.flat(2));
  assert.equal(await hashOf(data), out.sha256);
});

vectors("patches", async (given, out) => {
  const { pixelValues, patchDim } = patchify(given.pictures.map(pixels), given.image, grid(given.grid));
  const [t, h, w] = given.grid;
  assert.deepEqual([t, h * w, patchDim], out.shape);
  if (out.pixel_values) assert.deepEqual([...pixelValues], out.pixel_values.map(Math.fround));
  assert.equal(await hashOf(pixelValues), out.sha256);
});

vectors("video_frames", (given, out) => {
  if (out.indices) assert.deepEqual(evenlySpaced(given.total, given.count), out.indices);
  else assert.deepEqual(frameBounds(budgetOf({}), given.frames, given.factor, given.max_length), out.bounds);
});

vectors("pdf_pages", ({ pages, count, points, dpi }, out) => {
  if (points) assert.deepEqual(scaled(points[0], points[1], dpi).size, out.size);
  else if (out.indices) assert.deepEqual(parsePages(pages, count, "x.pdf"), out.indices);
  else assert.throws(() => parsePages(pages, count, "x.pdf"), { name: "MediaError" });
});

vectors("pruning", ({ pictures, frames, factor, tolerance, least, window = 0 }, out) => {
  const kept = keptBlocks((pictures as Picture[]).map(pixels), frames, factor, tolerance, least);
  assert.deepEqual(kept, out.kept);
  const image = { spatial_merge_size: 2, window, queries: 0, position_table: 0 } as ImageGeometry;
  const side = factor / 2;
  const feeds: Feeds = visionFeeds(image, { t: 1, h: pictures[0].height / side, w: pictures[0].width / side }, kept[0]);
  assert.deepEqual(pairs(numbers(feeds.patch_positions)), out.patch_positions);
  for (const name of ["window_gather", "window_lengths", "window_scatter"]) {
    assert.deepEqual(feeds[name] && numbers(feeds[name]), out[name]);
  }
});

vectors("patch_positions", (given, out) => {
  assert.deepEqual(pairs(positions.patchPositions(grid(given.grid), given.merge)), out.patch_positions);
});

vectors("interpolation", (given, out) => {
  const { indices, weights } = positions.interpolation(grid(given.grid), given.merge, given.side);
  assert.deepEqual([...indices], out.indices.flat());
  assert.deepEqual([...weights], out.weights.flat().map(Math.fround));
});

vectors("windows", (given, out) => {
  const { gather, lengths, scatter } = positions.windowLayout(grid(given.grid), given.merge, given.window);
  assert.deepEqual([...gather], out.window_gather);
  assert.deepEqual([...lengths], out.window_lengths);
  assert.deepEqual([...scatter], out.window_scatter);
});

vectors("mrope", (given, out) => {
  let token = 0;
  const spans: positions.VisionSpan[] = [];
  for (const part of given.parts) {
    token += (part.text ?? 0) + (part.queries ?? 0);
    const [t, h, w] = part.image ?? part.video ?? [];
    if (t === undefined || given.flat_positions) continue;
    const rate = part.video ? given.video.tokens_per_second : null;
    const span = { start: token, t, h: h / given.merge, w: w / given.merge, kept: part.kept ?? null };
    spans.push({ ...span, interval: rate ? rate * part.seconds : 1 });
    token += positions.spanTokens(spans[spans.length - 1]);
  }
  const found = positions.mropePositions(token, spans);
  assert.deepEqual(found, out.positions);
  assert.equal(Math.max(...found.flat()) + 1, out.next_position);
});

vectors("ntk_alpha", ({ length, trained }, out) => {
  assert.equal(positions.ntkAlpha(length, trained), out.ntk_alpha);
});

vectors("cache_inputs", ({ target, cache_form, past, total, capacity }, out) => {
  const feeds = cacheState({ target, cache_form }, past, total, capacity);
  assert.deepEqual(Object.keys(feeds).sort(), Object.keys(out).sort());
  for (const [name, array] of Object.entries(feeds)) {
    const expected = name === "total_sequence_length" ? [out[name]] : out[name].flat().map(Number);
    assert.deepEqual(numbers(array), expected);
  }
});

vectors("templates", async ({ template, messages, tools, template_args }, out, { templates }) => {
  const parsed = await ChatTemplate.parse(templates[template], template);
  assert.equal(parsed.render(messages, tools, template_args), out.text);
});

vectors("tokens", ({ text, ids }, out) => {
  if (text !== undefined) {
    assert.deepEqual(encode(TOKENIZER, text, 384), out.ids);
    return;
  }
  const decoder = new TokenDecoder(TOKENIZER);
  assert.deepEqual(
    ids.map((id: number) => decoder.add(id)).filter((piece: string) => piece !== ""),
    out.pieces,
  );
});

vectors("timestamps", ({ times, temporal_patch_size, text }, out) => {
  const seconds = times.map((each: number[]) => patchTimes(each, temporal_patch_size));
  assert.deepEqual(seconds, out.seconds);
  assert.equal(writeTimes(text, seconds), out.text);
});

vectors("prompts", async ({ family, max_length, reserve, messages }, out, { manifests }) => {
  const templates = JSON.parse(readFileSync(`${VECTORS}/templates.json`, "utf8")).shared.templates;
  const template = await ChatTemplate.parse(templates.reference, "reference");
  const manifest = {
    ...manifests[family],
    llm: { max_length, flat_positions: false, ntk_length: 0 },
    tokens: { image: 363, video: 364, stop: [353, 351] },
    image_tokens: null,
  } as Manifest;
  const prompt = await buildPrompt(
    messages.map(withPixels),
    manifest,
    (cleaned) => template.render(cleaned),
    (text) => encode(TOKENIZER, text, 384),
    reserve,
  );
  assert.deepEqual(prompt.ids, out.ids);
  assert.deepEqual(prompt.positions, out.positions);
  assert.deepEqual(
    prompt.placed.map((item) => item.grid),
    out.grids.map(grid),
  );
  assert.deepEqual(
    prompt.placed.map((item) => [item.span.start, positions.spanTokens(item.span)]),
    out.spans,
  );
});

/** The message with black pictures of the sizes that its parts give. */
function withPixels(message: Values): Message {
  if (typeof message.content === "string") return message as Message;
  const content = message.content.map(({ width, height, frames, ...part }: Values) => {
    if (part.type === "text") return part;
    const black = { data: new Uint8Array(width * height * 3), width, height };
    return part.type === "image" ? { ...part, image: black } : { ...part, video: Array(frames).fill(black) };
  });
  return { ...message, content } as Message;
}

vectors("random", ({ seed }, out) => {
  const random = generator(seed);
  assert.deepEqual(
    out.random.map(() => random()),
    out.random,
  );
});

function formulaLogits(vocab: number): number[] {
  return Array.from({ length: vocab }, (_, i) => (((i * 2654435761) % 2 ** 32) / 2 ** 32) * 12 - 6);
}

vectors("sampling", ({ logits: given, vocab, prompt = [], options }, out) => {
  const logits = Float32Array.from(given ?? formulaLogits(vocab));
  const sampling = { temperature: 0, top_k: 0, top_p: 1, min_p: 0, seed: null, ...options };
  const penalties = { repetition_penalty: 1, no_repeat_ngram_size: 0, presence_penalty: 0, ...options };
  const pick = penalizedPicker(penalties, samplingPicker(sampling), prompt);
  assert.deepEqual(
    out.tokens.map(() => pick(logits)),
    out.tokens,
  );
  if (out.allowed) assert.deepEqual(nucleus(logits, sampling).tokens, out.allowed);
});

vectors("logprobs", ({ logits: given, vocab, token, count }, out) => {
  const logits = Float32Array.from(given ?? formulaLogits(vocab));
  const found: TokenLogprob[] = [];
  const pick = recording(() => token, count, found, new Set());
  assert.equal(pick(logits), token);
  recording(() => token, count, found, new Set([token]))(logits);
  assert.equal(found.length, 1); // a stop token is not recorded
  assert.deepEqual(
    found[0].top.map(([id]) => id),
    out.top.map(([id]: [number, number]) => id),
  );
  assert.equal(found[0].token, token);
  const expected = [out.logprob, ...out.top.map(([, value]: [number, number]) => value)];
  [found[0].logprob, ...found[0].top.map(([, value]) => value)].forEach((value, at) => {
    const difference = Math.abs(value - expected[at]);
    assert.ok(difference <= 2e-12 * Math.max(1, Math.abs(expected[at])), `${value} is not ${expected[at]}`);
  });
});

vectors("loops", ({ before, part }, out) => {
  const detector = new LoopDetector();
  const answer = [...before];
  while (answer.length < 2500) answer.push(...part);
  let loop = 0;
  const at = answer.findIndex((token) => {
    loop = detector.add(token);
    return loop > 0;
  });
  assert.deepEqual({ length: at < 0 ? null : at + 1, loop }, out);
});

vectors("tool_calls", ({ answer, tools }, out) => {
  const { text, calls, malformed } = parseCalls(answer, tools);
  assert.deepEqual({ text, calls, malformed }, out);
});

vectors("stop_strings", ({ strings, pieces }, out) => {
  const stop = new StopStrings(strings);
  const given: string[] = [];
  for (const piece of pieces) {
    given.push(stop.feed(piece));
    if (stop.found !== null) break;
  }
  assert.deepEqual({ given, rest: stop.rest(), found: stop.found }, out);
});

vectors("boxes", ({ answer, notation, image_size, resized_size = [1000, 1000] }, out) => {
  const found = parseRegions(answer, notation, image_size, resized_size).map(({ label, ...rest }) => ({
    label,
    numbers: Object.values(rest),
  }));
  assert.deepEqual(
    found.map(({ label }) => label),
    out.regions.map(({ label }: Values) => label),
  );
  found.forEach(({ numbers: values }, index) => {
    values.forEach((value, place) => {
      const expected = out.regions[index].numbers[place];
      assert.ok(Math.abs(value - expected) <= 1e-9 * Math.max(1, Math.abs(expected)), `${value} is not ${expected}`);
    });
    assert.equal(values.length, out.regions[index].numbers.length);
  });
});
