/** The decoding loop: prefill in chunks over a reused prefix, then tokens as they are chosen. */

import { range } from "../common/arrays.js";
import { PromptError } from "../errors.js";
import type { Manifest } from "../manifest.js";
import { spanTokens, textPositions } from "../positions.js";
import { type Prompt, textKeys } from "../prompts/prompt.js";
import type { Engine, Features } from "../sessions/engine.js";
import type { CachedEncoder } from "./encode.js";
import type { TokenLogprob } from "./logprobs.js";
import type { TokenPicker } from "./sampling.js";

/** Prompt tokens per engine call: bounds activation memory. */
export const PREFILL_CHUNK = 1024;

/** Why an answer ended: stop token or string, limit, repetition, abort, or an error. */
export type FinishReason = "stop" | "length" | "loop" | "cancelled" | "error";

/**
 * Statistics and outcome of one generation; `finishReason` is null until it ends. Times are in seconds.
 *
 * `loop` is the number of tokens of the part that repeats, if that ended it. `logprobs`, if they are asked for, are those
 * of `tokens`.
 */
export interface GenerationStats {
  tokens: number[];
  finishReason: FinishReason | null;
  stopToken: number | null;
  stopString: string | null;
  loop: number;
  logprobs: TokenLogprob[];
  times: { vision: number; prefill: number; firstToken: number; decode: number };
  counts: { prompt: number; reused: number; image: number; generated: number };
}

export function newStats(): GenerationStats {
  return {
    tokens: [],
    finishReason: null,
    stopToken: null,
    stopString: null,
    loop: 0,
    logprobs: [],
    times: { vision: 0, prefill: 0, firstToken: 0, decode: 0 },
    counts: { prompt: 0, reused: 0, image: 0, generated: 0 },
  };
}

/** Drives an engine; keeps the keys of the cached tokens so that a shared prefix is not run again. */
export class Decoder {
  private cached: number[] = [];
  private promptCount = 0;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly engine: Engine,
    private readonly manifest: Manifest,
    private readonly encoder: CachedEncoder,
  ) {}

  /** Discards the KV cache's content; an unfinished stream ends with an error. */
  clear(): Promise<void> {
    this.promptCount++;
    return this.exclusive(async () => {
      this.cached = [];
      this.engine.clear();
    });
  }

  /** Frees the engine, once the call in progress has ended. */
  close(): Promise<void> {
    this.promptCount++;
    return this.exclusive(() => this.engine.close());
  }

  /** Runs an action that uses the cache after those before it: several streams may be read at the same time. */
  private exclusive<T>(action: () => Promise<T>): Promise<T> {
    const result = this.turn.then(action, action);
    this.turn = result.catch(() => {});
    return result;
  }

  /** Yields tokens until a stop token (not yielded), `limit` tokens, or an abort. */
  async *generate(
    prompt: Prompt,
    limit: number,
    stop: ReadonlySet<number>,
    pick: TokenPicker,
    stats: GenerationStats,
    signal?: AbortSignal,
  ): AsyncGenerator<number, void, void> {
    const started = performance.now();
    const number = ++this.promptCount;
    const last = [prompt.ids.length - 1];
    const [first] = await this.exclusive(() => this.prefill(prompt, last, number, stats, signal));
    let logits: Float32Array | null = first ?? null;
    stats.times.firstToken = seconds(started);
    for (let index = 0; index < limit; index++) {
      if (index > 0 && !signal?.aborted) {
        const before = performance.now();
        const token = stats.tokens[index - 1];
        logits = await this.exclusive(() => this.step(token, prompt, index - 1, number));
        stats.times.decode += seconds(before);
      }
      if (logits === null || signal?.aborted) {
        stats.finishReason = "cancelled";
        return;
      }
      const token = pick(logits);
      logits = null;
      if (stop.has(token)) {
        stats.finishReason = "stop";
        stats.stopToken = token;
        return;
      }
      stats.tokens.push(token);
      stats.counts.generated = stats.tokens.length;
      yield token;
    }
    stats.finishReason = "length";
  }

  /** Returns logits at the prompt indices `wanted` (increasing), running only tokens that are not cached yet. */
  async logits(prompt: Prompt, wanted: readonly number[]): Promise<Float32Array[]> {
    const number = ++this.promptCount;
    return this.exclusive(() => this.prefill(prompt, wanted, number, newStats()));
  }

  /** The same for a prompt of this number; fewer logits if it was aborted. */
  private async prefill(
    prompt: Prompt,
    wanted: readonly number[],
    number: number,
    stats: GenerationStats,
    signal?: AbortSignal,
  ): Promise<Float32Array[]> {
    this.checkCurrent(number);
    const count = prompt.ids.length;
    const start = Math.min(sharedPrefix(this.cached, prompt.keys), wanted[0]);
    this.cached = prompt.keys.slice(0, start);
    stats.counts.prompt = count;
    stats.counts.reused = start;
    stats.counts.image = prompt.placed.reduce((sum, item) => sum + spanTokens(item.span), 0);
    const logits: Float32Array[] = [];
    const answerStart = count - prompt.answerTokens;
    for (const [first, last] of chunks(start, answerStart, count)) {
      const { features, indices } = await this.featuresOf(prompt, first, last, stats, signal);
      if (signal !== undefined) await nextTask(); // in a worker, an abort is a message
      if (signal?.aborted) break;
      this.checkCurrent(number);
      const before = performance.now();
      const rows = await this.engine.forward({
        ids: prompt.ids.slice(first, last),
        positions: [0, 1, 2].map((axis) => prompt.positions[axis].slice(first, last)) as Prompt["positions"],
        features,
        featureIndices: indices,
        wanted: wanted.filter((index) => first <= index && index < last).map((index) => index - first),
        past: first,
        answer: first >= answerStart,
        ntkAlpha: prompt.ntkAlpha,
      });
      stats.times.prefill += seconds(before);
      this.cached = prompt.keys.slice(0, last);
      logits.push(...rows);
    }
    return logits;
  }

  /** Runs the token with index `index` of an answer; returns the logits after it. */
  private async step(token: number, prompt: Prompt, index: number, number: number): Promise<Float32Array> {
    this.checkCurrent(number);
    const past = prompt.ids.length + index;
    const rows = await this.engine.forward({
      ids: [token],
      positions: textPositions(prompt.nextPosition + index, 1),
      features: this.noFeatures(),
      featureIndices: [],
      wanted: [0],
      past,
      answer: true,
      ntkAlpha: prompt.ntkAlpha,
    });
    this.cached.length = past;
    this.cached.push(...textKeys([token], prompt.ntkAlpha));
    return rows[0];
  }

  /** The features and indices, relative to `first`, of the image tokens in [first, last). */
  private async featuresOf(
    prompt: Prompt,
    first: number,
    last: number,
    stats: GenerationStats,
    signal?: AbortSignal,
  ): Promise<{ features: Features; indices: number[] }> {
    const size = this.manifest.llm.hidden_size;
    const parts: Float32Array[][] = [];
    const indices: number[] = [];
    for (const item of prompt.placed) {
      const begin = Math.max(first, item.span.start);
      const end = Math.min(last, item.span.start + spanTokens(item.span));
      if (begin >= end || signal?.aborted) continue;
      const before = performance.now();
      const { layers } = await this.encoder.encode(item);
      stats.times.vision += seconds(before);
      const offset = item.firstRow - item.span.start;
      parts.push(layers.map((layer) => layer.subarray((begin + offset) * size, (end + offset) * size)));
      indices.push(...range(begin - first, end - first));
    }
    const layers = this.noFeatures().layers.map((_, layer) => joined(parts.map((part) => part[layer])));
    return { features: { layers, tokens: indices.length }, indices };
  }

  private noFeatures(): Features {
    const layers = range(0, 1 + this.manifest.llm.deepstack_layers).map(() => new Float32Array(0));
    return { layers, tokens: 0 };
  }

  private checkCurrent(number: number): void {
    if (this.promptCount !== number) {
      throw new PromptError("another prompt was started on this model, or it was cleared, before this answer ended", {
        fix: "finish one answer first, or load the bundle twice",
      });
    }
  }
}

/** The half-open token range of each engine call from `start` to each of the increasing borders. */
function chunks(start: number, ...borders: number[]): [number, number][] {
  const found: [number, number][] = [];
  let from = start;
  for (const end of borders) {
    for (; from < end; from = Math.min(from + PREFILL_CHUNK, end)) {
      found.push([from, Math.min(from + PREFILL_CHUNK, end)]);
    }
  }
  return found;
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

function sharedPrefix(cached: readonly number[], keys: readonly number[]): number {
  let shared = 0;
  while (shared < cached.length && shared < keys.length && cached[shared] === keys[shared]) shared++;
  return shared;
}

function nextTask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

function seconds(since: number): number {
  return (performance.now() - since) / 1000;
}
