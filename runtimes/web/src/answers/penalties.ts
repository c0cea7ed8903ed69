/** Penalties on logits: for repetition as in transformers, for presence as in OpenAI's interface. */

import { checkFloat, checkInt } from "../common/checks.js";
import type { Logits, TokenPicker } from "./sampling.js";

/** 1 and 0 disable them. */
export interface Penalties {
  repetition_penalty: number;
  no_repeat_ngram_size: number;
  presence_penalty: number;
}

/** Throws PromptError for values out of range. */
export function checkPenalties(penalties: Penalties): Penalties {
  checkFloat("repetition_penalty", penalties.repetition_penalty, 0, Number.POSITIVE_INFINITY, true, "1 disables it");
  checkInt("no_repeat_ngram_size", penalties.no_repeat_ngram_size, 0, "0 disables it");
  checkFloat("presence_penalty", penalties.presence_penalty, -2, 2, false, "0 is none");
  return penalties;
}

/** Applies `pick` to penalized logits; the tokens it chooses count as seen from then on. */
export function penalizedPicker(penalties: Penalties, pick: TokenPicker, prompt: readonly number[]): TokenPicker {
  return repetitionPicker(penalties, presencePicker(penalties.presence_penalty, pick), prompt);
}

function repetitionPicker(penalties: Penalties, pick: TokenPicker, prompt: readonly number[]): TokenPicker {
  const { repetition_penalty: penalty, no_repeat_ngram_size: size } = penalties;
  if (penalty === 1 && size === 0) return pick;
  const seen = new Set(prompt);
  const ngrams = new Ngrams(size, prompt);
  return (logits) => {
    const penalized = penalty === 1 ? logits : divided(logits, seen, Math.fround(penalty));
    const token = pick(ngrams.withoutRepeats(penalized));
    seen.add(token);
    ngrams.append(token);
    return token;
  };
}

function divided(logits: Logits, tokens: ReadonlySet<number>, penalty: number): Logits {
  const result = logits.slice();
  for (const token of tokens) result[token] = logits[token] < 0 ? logits[token] * penalty : logits[token] / penalty;
  return result;
}

function presencePicker(amount: number, pick: TokenPicker): TokenPicker {
  if (amount === 0) return pick;
  const chosen = new Set<number>();
  return (logits) => {
    const left = logits.slice();
    for (const token of chosen) left[token] -= Math.fround(amount);
    const token = pick(left);
    chosen.add(token);
    return token;
  };
}

/** The tokens that have followed each (`size` − 1)-gram so far; with a `size` of 0 nothing is recorded. */
class Ngrams {
  private readonly tokens: number[] = [];
  private readonly followers = new Map<string, number[]>();

  constructor(
    private readonly size: number,
    prompt: readonly number[],
  ) {
    for (const token of prompt) this.append(token);
  }

  append(token: number): void {
    if (this.size === 0) return;
    const last = this.last();
    const known = this.followers.get(last);
    if (known) known.push(token);
    else this.followers.set(last, [token]);
    this.tokens.push(token);
  }

  /** Sets tokens that would repeat an n-gram to −∞, unless none would be left. */
  withoutRepeats(logits: Logits): Logits {
    const banned = this.size ? this.followers.get(this.last()) : undefined;
    if (banned === undefined) return logits;
    const left = logits.slice();
    for (const token of banned) left[token] = Number.NEGATIVE_INFINITY;
    return left.some((value) => value > Number.NEGATIVE_INFINITY) ? left : logits;
  }

  private last(): string {
    return this.size === 1 ? "" : this.tokens.slice(-(this.size - 1)).join(",");
  }
}
