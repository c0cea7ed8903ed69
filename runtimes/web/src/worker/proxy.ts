/** `WorkerModel`: a model in a worker, with the methods of one that is here. */

import { type GenerationStats, newStats } from "../answers/generate.js";
import { resolveOptions } from "../answers/options.js";
import { type Stream, textOf } from "../answers/stream.js";
import { EngineError, InstallError, PromptError } from "../errors.js";
import type { BundleSource } from "../files.js";
import { type Region, regionsOf } from "../grounding.js";
import type { Manifest } from "../manifest.js";
import type { LoadOptions, Model, StreamOptions } from "../model.js";
import { type Places, placesOfPage } from "../packages.js";
import type { Message } from "../prompts/content.js";
import type { PlacedInfo, PromptInfo } from "../prompts/prompt.js";
import type { LoadProgress } from "../remote/progress.js";
import type { Tool } from "../tools.js";
import { type Arguments, type CallName, fromFailure, type Port, type Reply, type Result } from "./protocol.js";

const HERE = "load it with { worker: false }";
const COPIED = "give data, and images as a File, a Blob, an ImageBitmap or decoded pixels";

/** Starts a worker and loads a bundle there; throws what `load` throws, and InstallError if there can be no worker. */
export async function loadInWorker(bundle: BundleSource, options: LoadOptions): Promise<Model> {
  let worker: Worker;
  try {
    worker = new Worker(new URL("./main.js", import.meta.url), { type: "module", name: "qvl-runtime" });
  } catch (error) {
    throw new InstallError(
      `the worker cannot be started: ${(error as Error).message}`,
      { fix: HERE },
      { cause: error },
    );
  }
  const channel = new Channel(worker, () => worker.terminate());
  worker.onerror = (event) => {
    event.preventDefault();
    channel.close(new EngineError(`the worker failed: ${event.message ?? "its program does not load"}`, { fix: HERE }));
  };
  return loadThrough(channel, bundle, options, placesOfPage());
}

/** Loads a bundle at the other end of a channel. */
export async function loadThrough(
  channel: Channel,
  bundle: BundleSource,
  { progress, signal, worker: _, ...options }: LoadOptions,
  places: Places,
): Promise<Model> {
  channel.progress = progress;
  // Addresses start from the page, not from the worker's program.
  const source = typeof bundle === "string" || bundle instanceof URL ? absolute(String(bundle)) : bundle;
  const abort = () => void channel.call("abortLoad").catch(() => {}); // a closed worker has stopped
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    const manifest = await channel.call("load", source, options, places);
    signal?.throwIfAborted();
    return new WorkerModel(manifest, channel);
  } catch (error) {
    channel.close(error);
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

function absolute(address: string): string {
  return typeof document === "undefined" ? address : new URL(address, document.baseURI).href;
}

/** Calls methods of a `Host` at the other end of a port. */
export class Channel {
  progress: ((progress: LoadProgress) => void) | undefined;
  private readonly waiting = new Map<number, { resolve: (value: never) => void; reject: (error: unknown) => void }>();
  private count = 0;
  private closed: unknown = null;

  constructor(
    private readonly port: Port,
    private readonly end: () => void,
  ) {
    port.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
  }

  call<Name extends CallName>(name: Name, ...args: Arguments<Name>): Promise<Result<Name>> {
    return new Promise((resolve, reject) => {
      if (this.closed !== null) throw this.closed;
      const id = ++this.count;
      try {
        this.port.postMessage({ id, name, args });
      } catch (error) {
        throw new PromptError(
          `cannot be sent to the worker: ${(error as Error).message}`,
          { fix: COPIED },
          { cause: error },
        );
      }
      this.waiting.set(id, { resolve, reject });
    });
  }

  /** Ends the worker; calls that wait, and later ones, get the error. */
  close(error: unknown): void {
    if (this.closed !== null) return;
    this.closed = error;
    this.end();
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  private receive(reply: Reply): void {
    if ("progress" in reply) {
      this.progress?.(reply.progress);
      return;
    }
    const waiting = this.waiting.get(reply.id);
    this.waiting.delete(reply.id);
    if ("failure" in reply) waiting?.reject(fromFailure(reply.failure));
    else waiting?.resolve(reply.value as never);
  }
}

class WorkerModel implements Model {
  private streams = 0;

  constructor(
    readonly manifest: Manifest,
    private readonly channel: Channel,
  ) {}

  async generate(messages: readonly Message[], options: StreamOptions = {}): Promise<string> {
    return this.stream(messages, options).text();
  }

  stream(messages: readonly Message[], { signal, ...options }: StreamOptions = {}): Stream {
    resolveOptions(options, this.manifest); // throws at once what is out of range
    return new WorkerStream(this.channel, ++this.streams, messages, options, signal);
  }

  async prompt(
    messages: readonly Message[],
    reserve = 0,
    tools: Tool[] = [],
    templateArgs: Record<string, unknown> = {},
  ): Promise<PromptInfo> {
    return this.channel.call("prompt", messages, reserve, tools, templateArgs);
  }

  async logits(messages: readonly Message[], answer: string | readonly number[]): Promise<Float32Array[]> {
    return this.channel.call("logits", messages, answer);
  }

  async tokenIds(text: string): Promise<number[]> {
    return this.channel.call("tokenIds", text);
  }

  regions(answer: string, placed: PlacedInfo): Region[] {
    return regionsOf(answer, placed, this.manifest);
  }

  async clear(): Promise<void> {
    await this.channel.call("clear");
  }

  /** Ends the worker at once, and with it the call in progress. */
  async close(): Promise<void> {
    this.channel.close(new EngineError("the model is closed", { fix: "load the bundle again" }));
  }
}

/** An answer in a worker, which computes a piece when it is asked for. */
class WorkerStream implements Stream {
  readonly run: GenerationStats = newStats();
  readonly prompt: Promise<PromptInfo>;

  constructor(
    private readonly channel: Channel,
    private readonly number: number,
    messages: readonly Message[],
    options: StreamOptions,
    private readonly signal?: AbortSignal,
  ) {
    this.prompt = channel.call("stream", number, messages, options);
    this.prompt.catch(() => {}); // it is thrown at the first piece
    if (signal?.aborted) this.abort();
    signal?.addEventListener("abort", this.abort);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, void> {
    try {
      await this.prompt;
      for (let piece = await this.next(); piece !== null; piece = await this.next()) yield piece;
    } catch (error) {
      this.run.finishReason = "error";
      throw error;
    } finally {
      this.signal?.removeEventListener("abort", this.abort);
      if (this.run.finishReason === null) {
        this.run.finishReason = "cancelled";
        this.channel.call("end", this.number).catch(() => {}); // a closed worker has ended it
      }
    }
  }

  async text(): Promise<string> {
    return textOf(this);
  }

  private async next(): Promise<string | null> {
    const { piece, run } = await this.channel.call("next", this.number);
    const { tokens, logprobs } = this.run;
    tokens.push(...run.tokens);
    logprobs.push(...run.logprobs);
    Object.assign(this.run, run, { tokens, logprobs });
    return piece;
  }

  private readonly abort = () => {
    this.channel.call("abort", this.number).catch(() => {}); // a closed worker has ended it
  };
}
