/** `Stream`: an answer as text, piece by piece, while its tokens are generated. */

import type { Tokenizer } from "@huggingface/tokenizers";
import type { PromptInfo } from "../prompts/prompt.js";
import { TokenDecoder } from "../templates/tokenizer.js";
import type { GenerationStats } from "./generate.js";
import { StopStrings } from "./stop_strings.js";

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

/** An answer whose tokens are computed here. */
export class TokenStream implements Stream {
  constructor(
    private readonly tokens: AsyncGenerator<number, void, void>,
    private readonly tokenizer: Tokenizer,
    readonly run: GenerationStats,
    readonly prompt: Promise<PromptInfo>,
    private readonly stop: readonly string[],
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, void> {
    const decoder = new TokenDecoder(this.tokenizer);
    const strings = new StopStrings(this.stop);
    try {
      for await (const token of this.tokens) {
        const piece = decoder.add(token);
        const text = piece === "" ? "" : strings.feed(piece);
        if (text !== "") yield text;
        if (strings.found !== null) {
          this.run.finishReason = "stop";
          this.run.stopString = strings.found;
          return;
        }
      }
      const rest = strings.rest();
      if (rest !== "") yield rest;
    } catch (error) {
      this.run.finishReason = "error";
      throw error;
    } finally {
      this.run.finishReason ??= "cancelled";
    }
  }

  async text(): Promise<string> {
    return textOf(this);
  }
}
