/** `Model`: a loaded bundle that answers questions about images; `LocalModel` computes where it was loaded. */

import type { Tokenizer } from "@huggingface/tokenizers";
import { CachedEncoder } from "./answers/encode.js";
import { Decoder, newStats } from "./answers/generate.js";
import { recording } from "./answers/logprobs.js";
import { stoppingLoops } from "./answers/loops.js";
import { type AnswerOptions, resolveOptions } from "./answers/options.js";
import { penalizedPicker } from "./answers/penalties.js";
import { samplingPicker } from "./answers/sampling.js";
import type { Stream } from "./answers/stream.js";
import { TokenStream } from "./answers/token_stream.js";
import { graphFiles, readManifest } from "./bundle.js";
import { range } from "./common/arrays.js";
import { checkInt } from "./common/checks.js";
import { PromptError } from "./errors.js";
import { type BundleFiles, type BundleSource, openFiles } from "./files.js";
import { type Region, regionsOf } from "./grounding.js";
import type { Manifest } from "./manifest.js";
import type { Message } from "./prompts/content.js";
import { buildPrompt, followedBy, type PlacedInfo, type Prompt, type PromptInfo } from "./prompts/prompt.js";
import { OFF, parseRule, type Rule, type RuleName } from "./prune/rule.js";
import type { RemoteOptions } from "./remote/remote_files.js";
import { type Backend, checkBackend, chosenBackend } from "./sessions/backend.js";
import type { Engine } from "./sessions/engine.js";
import { openEngine } from "./sessions/graphs.js";
import { checkFileSizes, checkMemory } from "./sessions/memory.js";
import { openRuntime } from "./sessions/onnxruntime.js";
import { ChatTemplate } from "./templates/chat.js";
import { encode, parseTokenizer } from "./templates/tokenizer.js";
import { checkTools, type Tool } from "./tools.js";

/** `progress` and `keep` are for bundles below a URL; `signal` stops any load, and a download at once. */
export interface LoadOptions extends RemoteOptions {
  /** Most threads that the engine uses; by default as many as it chooses. */
  threads?: number;
  /**
   * Where graphs run: "node" (the default there), "wasm" (the default in browsers), or "webgpu" (the default in browsers
   * for bundles of target `web`, if there is an adapter that can run them).
   */
  backend?: Backend;
  /** What is left out of images that do not say it themselves; by default what the bundle says. */
  prune?: RuleName;
  /** Whether a worker of its own computes, so that the page does not freeze; by default in pages of browsers. */
  worker?: boolean;
}

export interface StreamOptions extends AnswerOptions {
  tools?: Tool[];
  /** Further variables of the chat template. */
  template_args?: Record<string, unknown>;
  /** Ends the answer before its next token. */
  signal?: AbortSignal;
  /** Generates up to the limit, for benchmarks. */
  ignore_eos?: boolean;
}

/** A loaded bundle with one KV cache. Starting a second stream ends the first, which throws at its next piece. */
export interface Model {
  readonly manifest: Manifest;
  /** Returns the answer to chat messages; decoding is greedy by default. */
  generate(messages: readonly Message[], options?: StreamOptions): Promise<string>;
  /**
   * Streams the answer in pieces, never splitting a character; `.run` has tokens, times and `finishReason`.
   *
   * Throws PromptError at once for options out of range, and at the first piece for messages that cannot be used.
   */
  stream(messages: readonly Message[], options?: StreamOptions): Stream;
  /** The token ids and media of chat messages, leaving `reserve` tokens for the answer. */
  prompt(
    messages: readonly Message[],
    reserve?: number,
    tools?: Tool[],
    templateArgs?: Record<string, unknown>,
  ): Promise<PromptInfo>;
  /** Teacher-forced logits: row i predicts token i of `answer` (a text or ids). */
  logits(messages: readonly Message[], answer: string | readonly number[]): Promise<Float32Array[]>;
  /** The token ids of a text; throws PromptError for tokens that the model does not have. */
  tokenIds(text: string): Promise<number[]>;
  /** The boxes and points of an answer about an image of a prompt (`(await stream.prompt).placed[i]`), in its pixels. */
  regions(answer: string, placed: PlacedInfo): Region[];
  /** Frees the KV cache and all cached image features; the next prompt is computed from scratch. */
  clear(): Promise<void>;
  /** Frees the engine too, after which the model cannot be used. */
  close(): Promise<void>;
}

/** Opens a bundle where this is called; see `load`. */
export async function loadHere(bundle: BundleSource, options: LoadOptions = {}): Promise<Model> {
  try {
    return await opened(bundle, options);
  } catch (error) {
    options.signal?.throwIfAborted(); // what an abort has made fail says less
    throw error;
  }
}

async function opened(bundle: BundleSource, options: LoadOptions): Promise<Model> {
  const rule = parseRule(options.prune);
  const threads = options.threads === undefined ? null : checkInt("threads", options.threads, 1);
  checkBackend(options.backend);
  const files = await openFiles(bundle, options);
  const manifest = await readManifest(files);
  const backend = await chosenBackend(options.backend, manifest, files.name);
  if (backend === "wasm") checkMemory(manifest, graphFiles(manifest), files.name);
  if (backend === "webgpu") checkFileSizes(manifest, graphFiles(manifest), files.name);
  const texts = await openTexts(files, manifest);
  const engine = await openEngine(await openRuntime(backend), files, manifest, threads, options.signal);
  await files.settle?.();
  return new LocalModel(
    manifest,
    engine,
    texts.tokenizer,
    texts.template,
    rule ?? parseRule(manifest.image.prune) ?? OFF,
  );
}

async function openTexts(
  files: BundleFiles,
  manifest: Manifest,
): Promise<{ tokenizer: Tokenizer; template: ChatTemplate }> {
  const [tokenizer, template] = await Promise.all(
    ["tokenizer.json", "chat_template.jinja"].map(async (name) => new TextDecoder().decode(await files.read(name))),
  );
  return {
    tokenizer: await parseTokenizer(tokenizer, `${files.name}/tokenizer.json`),
    template: await ChatTemplate.parse(template, `${files.name}/chat_template.jinja`, manifest.special_tokens),
  };
}

class LocalModel implements Model {
  private readonly encoder: CachedEncoder;
  private readonly decoder: Decoder;

  constructor(
    readonly manifest: Manifest,
    engine: Engine,
    private readonly tokenizer: Tokenizer,
    private readonly template: ChatTemplate,
    private readonly prune: Rule,
  ) {
    this.encoder = new CachedEncoder(engine, manifest);
    this.decoder = new Decoder(engine, manifest, this.encoder);
  }

  async generate(messages: readonly Message[], options: StreamOptions = {}): Promise<string> {
    return this.stream(messages, options).text();
  }

  stream(messages: readonly Message[], options: StreamOptions = {}): Stream {
    const resolved = resolveOptions(options, this.manifest);
    const stats = newStats();
    const prompt = this.prompt(messages, resolved.maxNewTokens, options.tools, options.template_args);
    prompt.catch(() => {}); // it is thrown at the first piece
    const stop = new Set(options.ignore_eos ? [] : this.manifest.tokens.stop);
    const decoder = this.decoder;
    async function* tokens(): AsyncGenerator<number, void, void> {
      const built = await prompt;
      const chosen = penalizedPicker(resolved.penalties, samplingPicker(resolved.sampling), built.ids);
      const { alternatives } = resolved;
      const pick = alternatives === null ? chosen : recording(chosen, alternatives, stats.logprobs, stop);
      yield* decoder.generate(built, resolved.maxNewTokens, stop, pick, stats, options.signal);
    }
    const guarded = resolved.stopLoops ? stoppingLoops(tokens(), stats) : tokens();
    return new TokenStream(guarded, this.tokenizer, stats, prompt, resolved.stop);
  }

  /** The token ids, positions and media of chat messages, leaving `reserve` tokens for the answer. */
  async prompt(
    messages: readonly Message[],
    reserve = 0,
    tools: Tool[] = [],
    templateArgs: Record<string, unknown> = {},
  ): Promise<Prompt> {
    const described = checkTools(tools);
    return buildPrompt(
      messages,
      this.manifest,
      (cleaned) => this.template.render(cleaned, described, templateArgs),
      (text) => this.encode(text),
      reserve,
      this.prune,
    );
  }

  async logits(messages: readonly Message[], answer: string | readonly number[]): Promise<Float32Array[]> {
    const ids = typeof answer === "string" ? this.encode(answer) : answer;
    if (ids.length === 0) throw new PromptError("the answer is empty");
    const prompt = await this.prompt(messages, ids.length);
    const wanted = range(prompt.ids.length - 1, prompt.ids.length + ids.length - 1);
    return this.decoder.logits(followedBy(prompt, ids.slice(0, -1)), wanted);
  }

  async tokenIds(text: string): Promise<number[]> {
    return this.encode(text);
  }

  private encode(text: string): number[] {
    return encode(this.tokenizer, text, this.manifest.llm.vocab_size);
  }

  regions(answer: string, placed: PlacedInfo): Region[] {
    return regionsOf(answer, placed, this.manifest);
  }

  async clear(): Promise<void> {
    this.encoder.clear();
    await this.decoder.clear();
  }

  /** Frees the engine too, after which the model cannot be used; waits for the call in progress. */
  async close(): Promise<void> {
    this.encoder.clear();
    await this.decoder.close();
  }
}
