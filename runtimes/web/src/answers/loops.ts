/** Stops an answer that repeats the same tokens over and over, the classic failure of models that read documents. */

import type { GenerationStats } from "./generate.js";

/** Most tokens of the part that repeats. */
const LONGEST = 256;
/** A loop is a part that occurs this many times in a row, and this many tokens together. */
const REPEATS = 4;
const TOKENS = 128;

/** Watches an answer's tokens; the cost of a token does not depend on how many there were. */
export class LoopDetector {
  /** The last tokens in a ring. */
  private readonly recent = new Int32Array(LONGEST).fill(-1);
  /** At index p − 1: how many of the last tokens in a row equal the token p places before them. */
  private readonly equal = new Int32Array(LONGEST);
  private count = 0;

  /** Takes the next token; returns the length of the part that loops, 0 if none does. */
  add(token: number): number {
    let found = 0;
    for (let period = LONGEST; period >= 1; period--) {
      const before = this.recent[(this.count + LONGEST - period) % LONGEST];
      const equal = before === token ? this.equal[period - 1] + 1 : 0;
      this.equal[period - 1] = equal;
      if (equal >= Math.max(REPEATS * period, TOKENS) - period) found = period;
    }
    this.recent[this.count++ % LONGEST] = token;
    return found;
  }
}

/** Yields tokens until they loop; `stats.finishReason` is then "loop", `stats.loop` the length of the part. */
export async function* stoppingLoops(
  tokens: AsyncGenerator<number, void, void>,
  stats: GenerationStats,
): AsyncGenerator<number, void, void> {
  const detector = new LoopDetector();
  for await (const token of tokens) {
    yield token;
    const length = detector.add(token);
    if (length === 0) continue;
    stats.finishReason = "loop";
    stats.loop = length;
    return;
  }
}
