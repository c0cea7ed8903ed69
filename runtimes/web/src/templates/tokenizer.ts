/** A bundle's tokenizer, and the text of tokens as they are generated. */

import type { Tokenizer } from "@huggingface/tokenizers";
import { BundleError, PromptError } from "../errors.js";
import { importTokenizers } from "../packages.js";

/** Special tokens that are part of an answer: decoding keeps them. */
export const MARKS = [
  ...["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"],
  ...["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"],
];

/** Returns the tokenizer of a `tokenizer.json`; throws BundleError. */
export async function parseTokenizer(text: string, where: string): Promise<Tokenizer> {
  const { Tokenizer } = await importTokenizers();
  try {
    return new Tokenizer(JSON.parse(text), { clean_up_tokenization_spaces: false });
  } catch (error) {
    throw new BundleError(`is not a tokenizer: ${String(error)}`, { where }, { cause: error });
  }
}

/** Returns the token ids of a text; throws PromptError for tokens that the model does not have. */
export function encode(tokenizer: Tokenizer, text: string, vocabSize: number): number[] {
  const { ids } = tokenizer.encode(text, { add_special_tokens: false });
  const beyond = ids.find((id) => id >= vocabSize);
  if (beyond !== undefined) {
    throw new PromptError(`token ${beyond} of the text, but the model has ${vocabSize} tokens`, {
      fix: "leave it out of the messages",
    });
  }
  return ids;
}

/** What a text ends with while the last character is not complete. */
const INCOMPLETE = "\ufffd";

/** Turns tokens into text, whole characters at a time; special tokens are skipped, except for marks. */
export class TokenDecoder {
  private readonly marks = new Map<number, string>();
  private ids: number[] = [];
  private given = "";

  constructor(private readonly tokenizer: Tokenizer) {
    for (const mark of MARKS) {
      const id = tokenizer.token_to_id(mark);
      if (id !== undefined) this.marks.set(id, mark);
    }
  }

  /** Returns the text that a token completes; it may be empty. */
  add(id: number): string {
    const mark = this.marks.get(id);
    if (mark !== undefined) return mark;
    this.ids.push(id);
    const text = this.tokenizer.decode(this.ids, { skip_special_tokens: true });
    if (text.endsWith(INCOMPLETE)) return "";
    const piece = text.slice(this.given.length);
    this.ids = this.ids.slice(-1); // the last token is decoded again, so that spaces between tokens stay
    this.given = this.tokenizer.decode(this.ids, { skip_special_tokens: true });
    if (this.given.endsWith(INCOMPLETE)) {
      this.ids = [];
      this.given = "";
    }
    return piece;
  }
}
