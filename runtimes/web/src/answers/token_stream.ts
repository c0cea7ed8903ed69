/** `TokenStream`: the text of tokens as they are generated, up to a stop string. */

import type { Tokenizer } from "@huggingface/tokenizers";
import type { PromptInfo } from "../prompts/prompt.js";
import { TokenDecoder } from "../templates/tokenizer.js";
import type { GenerationStats } from "./generate.js";
import { StopStrings } from "./stop_strings.js";
import { type Stream, textOf } from "./stream.js";

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
