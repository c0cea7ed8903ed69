/** Runs the graphs in ONNX Runtime, with the KV cache in place where the engine can. */

import type { InferenceSession, Tensor } from "onnxruntime-common";
import { type Feeds, float32 } from "../common/arrays.js";
import { EngineError, firstLine } from "../errors.js";
import type { BundleFiles } from "../files.js";
import { DECODE, type Manifest } from "../manifest.js";
import type { Grid } from "../positions.js";
import type { Engine, Features, LlmInputs } from "./engine.js";
import { llmFeeds, visionFeeds } from "./feeds.js";
import { KvCache } from "./layer_states.js";
import { type OnnxRuntime, openGraph, toTensor } from "./onnxruntime.js";
import { productConfig } from "./saturation.js";

/** Fatal messages only: errors are thrown. */
const QUIET: InferenceSession.RunOptions = { logSeverityLevel: 4 };

/** What ONNX Runtime says when an array does not fit 32-bit addresses, or nothing is left. */
const MEMORY_ENDS = /SafeIntOnOverflow|bad_alloc|out of memory|Failed to allocate/i;

/**
 * Loads the graphs; throws BundleError if ONNX Runtime rejects one, and the reason of a signal between graphs.
 *
 * The runtime belongs to the engine, and is closed if there is none.
 */
export async function openEngine(
  runtime: OnnxRuntime,
  files: BundleFiles,
  manifest: Manifest,
  threads: number | null,
  signal?: AbortSignal,
): Promise<GraphEngine> {
  const names = ["vision", "llm", DECODE].filter((name) => Object.hasOwn(manifest.graphs, name));
  const sessions: InferenceSession[] = [];
  try {
    signal?.throwIfAborted();
    const config = await productConfig(runtime, manifest, threads, files.name);
    for (const name of names) {
      sessions.push(await openGraph(runtime, files, manifest, name, threads, config));
      signal?.throwIfAborted();
    }
    const [vision, prefill, decode] = sessions;
    return new GraphEngine(runtime, manifest, vision, prefill, decode ?? prefill);
  } catch (error) {
    await release(runtime, sessions).catch(() => {}); // the first error says more
    throw error;
  }
}

/** Frees sessions and what they share. */
async function release(runtime: OnnxRuntime, sessions: Iterable<InferenceSession>): Promise<void> {
  try {
    for (const session of sessions) await session.release();
  } finally {
    runtime.close();
  }
}

/** All graphs of a bundle; one call at a time. */
export class GraphEngine implements Engine {
  private cache: KvCache;
  private closed = false;

  constructor(
    private readonly runtime: OnnxRuntime,
    private readonly manifest: Manifest,
    private readonly vision: InferenceSession,
    private readonly prefill: InferenceSession,
    private readonly decode: InferenceSession,
  ) {
    this.cache = this.newCache();
  }

  async encode(pixelValues: Float32Array, grid: Grid, cells: readonly number[] | null): Promise<Features> {
    const patches = pixelValues.length / grid.t / this.patchDim;
    const pixels = float32(pixelValues, [grid.t, patches, this.patchDim]);
    const feeds = { pixel_values: pixels, ...visionFeeds(this.manifest.image, grid, cells) };
    const outputs = await this.run(this.vision, this.tensors(feeds));
    const names = this.manifest.graphs.vision.outputs.map((port) => port.name);
    const layers = names.map((name) => outputs[name].data as Float32Array);
    return { layers, tokens: layers[0].length / this.manifest.llm.hidden_size };
  }

  async forward(inputs: LlmInputs): Promise<Float32Array[]> {
    const total = inputs.past + inputs.ids.length;
    this.cache.reserve(total, inputs.past);
    const capacity = this.manifest.cache_form === "concat" ? total : this.cache.capacity;
    const feeds = { ...this.tensors(llmFeeds(this.manifest, inputs, capacity)), ...this.cache.past };
    const session = inputs.answer ? this.decode : this.prefill;
    const outputs = await this.run(session, feeds, { logits: null, ...this.cache.present });
    this.cache.take(outputs, total);
    const logits = outputs.logits.data as Float32Array;
    const vocab = this.manifest.llm.vocab_size;
    return inputs.wanted.map((_, row) => logits.subarray(row * vocab, (row + 1) * vocab));
  }

  clear(): void {
    this.cache.dispose();
    this.cache = this.newCache();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.cache.dispose();
    await release(this.runtime, new Set([this.vision, this.prefill, this.decode]));
  }

  private get patchDim(): number {
    const { patch_size: side, temporal_patch_size: depth } = this.manifest.image;
    return 3 * depth * side * side;
  }

  private newCache(): KvCache {
    return new KvCache(this.manifest, this.runtime.memory);
  }

  private tensors(feeds: Feeds): Record<string, Tensor> {
    return Object.fromEntries(
      Object.entries(feeds).map(([name, array]) => [name, toTensor(this.runtime.Tensor, array)]),
    );
  }

  private async run(
    session: InferenceSession,
    feeds: Record<string, Tensor>,
    fetches?: Record<string, Tensor | null>,
  ): Promise<Record<string, Tensor>> {
    if (this.closed) throw new EngineError("the model is closed", { fix: "load the bundle again" });
    this.checkGpu();
    const outputs = await this.called(fetches ? session.run(feeds, fetches, QUIET) : session.run(feeds, QUIET));
    this.checkGpu();
    return outputs as Record<string, Tensor>;
  }

  /** Throws EngineError for what went wrong on the GPU outside of calls. */
  private checkGpu(): void {
    const failure = this.runtime.failure();
    if (failure === null) return;
    throw new EngineError(`the GPU failed: ${failure}`, { fix: 'load the bundle again, or with backend: "wasm"' });
  }

  private async called(call: Promise<InferenceSession.ReturnType>): Promise<InferenceSession.ReturnType> {
    try {
      return await call;
    } catch (error) {
      this.checkGpu();
      const reason = firstLine(error);
      const full = this.runtime.backend === "wasm" && MEMORY_ENDS.test(reason);
      const fix = full ? "WebAssembly has 4 GB: give images a smaller max_pixels" : "";
      throw new EngineError(`ONNX Runtime failed: ${reason}`, { fix }, { cause: error });
    }
  }
}
