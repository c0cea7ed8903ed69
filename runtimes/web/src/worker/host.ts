/** The model in a worker: its methods, called by messages. */

import type { GenerationStats } from "../answers/generate.js";
import type { BundleSource } from "../files.js";
import type { Manifest } from "../manifest.js";
import { type LoadOptions, loadHere, type Model, type StreamOptions } from "../model.js";
import { type Places, setPlaces } from "../packages.js";
import type { Message } from "../prompts/content.js";
import type { PromptInfo } from "../prompts/prompt.js";
import type { LoadProgress } from "../remote/progress.js";
import type { Tool } from "../tools.js";
import { type Call, type Port, type Reply, toFailure } from "./protocol.js";

/** A piece of an answer, or null at its end, and its statistics, in which `tokens` and `logprobs` are the new ones. */
export interface Step {
  piece: string | null;
  run: GenerationStats;
}

interface Answering {
  pieces: AsyncIterator<string>;
  run: GenerationStats;
  sent: number;
  control: AbortController;
}

/** One model, and the answers that are being read. */
export class Host {
  private model: Model | null = null;
  private readonly loading = new AbortController();
  private readonly answers = new Map<number, Answering>();

  constructor(private readonly progress: (progress: LoadProgress) => void) {}

  async load(bundle: BundleSource, options: LoadOptions, places: Places): Promise<Manifest> {
    setPlaces(places);
    this.model = await loadHere(bundle, { ...options, progress: this.progress, signal: this.loading.signal });
    return this.model.manifest;
  }

  async abortLoad(): Promise<void> {
    this.loading.abort();
  }

  /** Starts an answer under a number that the page chooses; returns its prompt. */
  async stream(number: number, messages: readonly Message[], options: StreamOptions): Promise<PromptInfo> {
    const control = new AbortController();
    const stream = this.model!.stream(messages, { ...options, signal: control.signal });
    this.answers.set(number, { pieces: stream[Symbol.asyncIterator](), run: stream.run, sent: 0, control });
    try {
      return infoOf(await stream.prompt);
    } catch (error) {
      this.answers.delete(number);
      throw error;
    }
  }

  async next(number: number): Promise<Step> {
    const answer = this.answers.get(number)!;
    try {
      const { done, value } = await answer.pieces.next();
      if (done) this.answers.delete(number);
      const { tokens, logprobs } = answer.run;
      const run = { ...answer.run, tokens: tokens.slice(answer.sent), logprobs: logprobs.slice(answer.sent) };
      answer.sent = tokens.length;
      return { piece: done ? null : value, run };
    } catch (error) {
      this.answers.delete(number);
      throw error;
    }
  }

  /** Ends an answer that is not read any further. */
  async end(number: number): Promise<void> {
    const answer = this.answers.get(number);
    this.answers.delete(number);
    await answer?.pieces.return?.();
  }

  async abort(number: number): Promise<void> {
    this.answers.get(number)?.control.abort();
  }

  async prompt(messages: readonly Message[], reserve: number, tools: Tool[], templateArgs: Record<string, unknown>) {
    return infoOf(await this.model!.prompt(messages, reserve, tools, templateArgs));
  }

  async logits(messages: readonly Message[], answer: string | readonly number[]): Promise<Float32Array[]> {
    return this.model!.logits(messages, answer);
  }

  async tokenIds(text: string): Promise<number[]> {
    return this.model!.tokenIds(text);
  }

  async clear(): Promise<void> {
    await this.model!.clear();
  }
}

/** A prompt without pixels and keys. */
function infoOf({ ids, placed }: PromptInfo): PromptInfo {
  const sizes = (frames: PromptInfo["placed"][number]["media"]["frames"]) =>
    frames.map(({ width, height }) => ({ width, height }));
  return {
    ids,
    placed: placed.map(({ media, span, grid }) => ({
      media: { kind: media.kind, frames: sizes(media.frames) },
      span,
      grid,
    })),
  };
}

/** Answers the calls that arrive at a port. */
export function serveHost(port: Port): void {
  const reply = (message: Reply) => port.postMessage(message);
  const host = new Host((progress) => reply({ progress }));
  port.onmessage = async ({ data: { id, name, args } }: MessageEvent<Call>) => {
    try {
      const method = host[name] as (...args: unknown[]) => Promise<unknown>;
      reply({ id, value: await method.apply(host, args) });
    } catch (error) {
      reply({ id, failure: toFailure(error) });
    }
  };
}
