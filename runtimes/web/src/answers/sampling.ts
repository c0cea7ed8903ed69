/** Choosing the next token from its logits. */

import { range } from "../common/arrays.js";
import { checkFloat, checkInt } from "../common/checks.js";
import { EngineError } from "../errors.js";
import { generator } from "./random.js";

export type Logits = Float32Array;
export type TokenPicker = (logits: Logits) => number;

/** Tokens a little below a border are looked at, too: it is computed with rounding errors. */
const CAUTION = 0.99;

/** Greedy at `temperature` 0, else from the `top_k` likeliest (0: all) within mass `top_p`, at least `min_p` times the best. */
export interface Sampling {
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  seed: number | null;
}

/** Throws PromptError for values out of range. */
export function checkSampling(sampling: Sampling): Sampling {
  checkFloat("temperature", sampling.temperature);
  checkFloat("top_p", sampling.top_p, 0, 1, true);
  checkInt("top_k", sampling.top_k, 0, "0 keeps all tokens");
  checkFloat("min_p", sampling.min_p, 0, 1);
  if (sampling.seed !== null) checkInt("seed", sampling.seed, 0);
  return sampling;
}

/** Returns a function from logits to a token id, with its own random state. */
export function samplingPicker(sampling: Sampling): TokenPicker {
  if (sampling.temperature === 0) return best;
  const random = sampling.seed === null ? Math.random : generator(sampling.seed);
  return (logits) => {
    const { tokens, mass } = nucleus(logits, sampling);
    const cumulative = new Float64Array(mass.length);
    let sum = 0;
    for (let index = 0; index < mass.length; index++) cumulative[index] = sum += mass[index];
    const place = random();
    let low = 0;
    let high = tokens.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cumulative[middle] / sum > place) high = middle;
      else low = middle + 1;
    }
    return tokens[low];
  };
}

/** The tokens that may be drawn, in the order of their ids, and their mass; the likeliest has a mass of 1. */
export function nucleus(logits: Logits, sampling: Sampling): { tokens: number[]; mass: Float64Array } {
  const highest = logits[best(logits)];
  let tokens = range(0, logits.length);
  if (sampling.top_k > 0 && sampling.top_k < logits.length) tokens = likeliest(logits, tokens, sampling.top_k);
  const massOf = (token: number) => Math.exp((logits[token] - highest) / sampling.temperature);
  const mass = Float64Array.from(tokens, massOf);
  if (sampling.top_p === 1 && sampling.min_p === 0) return { tokens, mass };
  const kept = cut(logits, tokens, mass, sampling);
  return { tokens: kept, mass: Float64Array.from(kept, massOf) };
}

/**
 * The tokens within `top_p` and `min_p`. Only those are sorted that may be among them: if a token had less than an equal
 * share of 1 − `top_p`, it and all below it would lie beyond `top_p`.
 */
function cut(logits: Logits, tokens: number[], mass: Float64Array, { top_p, min_p }: Sampling): number[] {
  const total = mass.reduce((sum, value) => sum + value, 0);
  const share = ((1 - top_p) * total) / mass.length;
  const bound = CAUTION * Math.max(share, min_p);
  const candidates = range(0, tokens.length).filter((index) => mass[index] >= bound);
  const falling = [...candidates].sort((a, b) => logits[tokens[b]] - logits[tokens[a]]);
  const first = mass[falling[0]] / total;
  let before = 0;
  let count = 0;
  for (const index of falling) {
    const chance = mass[index] / total;
    const sum = before + chance;
    if (!(sum - chance < top_p && chance >= min_p * first)) break;
    before = sum;
    count++;
  }
  return likeliest(
    logits,
    candidates.map((index) => tokens[index]),
    count,
  );
}

/** The `count` likeliest of some tokens in the order of their ids; of tokens with equal logits the lower ids. */
function likeliest(logits: Logits, tokens: readonly number[], count: number): number[] {
  const rising = Float32Array.from(tokens, (token) => logits[token]).sort();
  const least = rising[rising.length - count];
  let equals = count - tokens.filter((token) => logits[token] > least).length;
  return tokens.filter((token) => logits[token] > least || (logits[token] === least && equals-- > 0));
}

/** The likeliest token, the first among equals; throws EngineError if its logit is not finite. */
function best(logits: Logits): number {
  let found = 0;
  for (let token = 0; token < logits.length; token++) {
    if (Number.isNaN(logits[token])) throw notFinite();
    if (logits[token] > logits[found]) found = token;
  }
  if (!Number.isFinite(logits[found])) throw notFinite();
  return found;
}

function notFinite(): EngineError {
  return new EngineError("the model's logits are not finite", { fix: "check the bundle's hashes" });
}
