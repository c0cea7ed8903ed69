/**
 * Log probabilities of an answer's tokens.
 *
 * They are those of the model itself: log softmax of its logits, before penalties and temperature. Values of two requests,
 * or of two bundles, can therefore be compared whatever the options were.
 */

import { checkInt } from "../common/checks.js";
import { PromptError } from "../errors.js";
import type { Logits, TokenPicker } from "./sampling.js";

/** Most alternatives per token, as in OpenAI's interface. */
const MOST = 20;

/** A generated token and its natural log probability; `top` are the likeliest tokens and theirs, in this order. */
export interface TokenLogprob {
  token: number;
  logprob: number;
  top: [token: number, logprob: number][];
}

/** How many alternatives per token are recorded, null if nothing is; throws PromptError if out of range. */
export function alternatives(logprobs: boolean, topLogprobs: number | undefined): number | null {
  const count = topLogprobs === undefined ? 0 : checkInt("top_logprobs", topLogprobs, 0);
  if (count > MOST) throw new PromptError(`top_logprobs must be a whole number <= ${MOST}, got ${count}`);
  if (typeof logprobs !== "boolean") {
    throw new PromptError("logprobs must be true or false", { fix: "top_logprobs is the number of alternatives" });
  }
  if (count > 0 && !logprobs) throw new PromptError("top_logprobs needs logprobs");
  return logprobs ? count : null;
}

/** Returns `pick`, which now adds what it chooses to `found`, with `count` alternatives; `stop` tokens are not. */
export function recording(
  pick: TokenPicker,
  count: number,
  found: TokenLogprob[],
  stop: ReadonlySet<number>,
): TokenPicker {
  return (logits) => {
    const token = pick(logits);
    if (!stop.has(token)) found.push(entry(logSoftmax(logits), token, count));
    return token;
  };
}

/** Natural log probabilities of logits. */
export function logSoftmax(logits: Logits): Float64Array {
  let highest = Number.NEGATIVE_INFINITY;
  for (const value of logits) highest = Math.max(highest, value);
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - highest);
  const log = Math.log(sum);
  return Float64Array.from(logits, (value) => value - highest - log);
}

function entry(values: Float64Array, token: number, count: number): TokenLogprob {
  const top = likeliest(values, count).map((each): [number, number] => [each, values[each]]);
  return { token, logprob: values[token], top };
}

/** The `count` likeliest tokens, the likeliest first; of equals the lower ids. */
function likeliest(values: Float64Array, count: number): number[] {
  const found: number[] = [];
  for (let token = 0; token < values.length; token++) {
    if (found.length >= count && !(values[token] > values[found[count - 1]])) continue;
    let place = found.length;
    while (place > 0 && values[found[place - 1]] < values[token]) place--;
    found.splice(place, 0, token);
    found.length = Math.min(found.length, count);
  }
  return found;
}
