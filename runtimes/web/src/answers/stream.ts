/** `Stream`: an answer as text, piece by piece, while its tokens are generated. */

import type { PromptInfo } from "../prompts/prompt.js";
import type { GenerationStats } from "./generate.js";

/**
 * Iterates over pieces of the answer, whole characters each; `run` holds its statistics, and `prompt` resolves to what
 * the model was asked. Leaving the loop early ends the answer.
 */
export interface Stream extends AsyncIterable<string> {
  readonly run: GenerationStats;
  readonly prompt: Promise<PromptInfo>;
  /** Returns the whole answer. */
  text(): Promise<string>;
}

/** Joins the pieces of an answer. */
export async function textOf(pieces: AsyncIterable<string>): Promise<string> {
  let answer = "";
  for await (const piece of pieces) answer += piece;
  return answer;
}
