/** What the layers keep between calls: keys and values of every token. */

import type { Tensor } from "onnxruntime-common";
import { float32, type GraphArray, product } from "../common/arrays.js";
import { type CacheTensor, cacheTensors, type Manifest } from "../manifest.js";

/** The KV cache grows by multiples of this many tokens. */
export const CACHE_STEP = 512;

/** Where the tensors of a cache are. */
export interface CacheMemory {
  /** Whether calls write into the tensors that they get. */
  readonly inPlace: boolean;
  /** Returns a tensor of zeros. */
  zeros(dataType: CacheTensor["dtype"], dims: readonly number[]): Tensor;
  /** Copies the first tokens of every head. */
  copyTokens(from: Tensor, to: Tensor, tokens: number): void;
}

/**
 * Keys and values [1, heads, capacity, head_dim] of every layer.
 *
 * Where the engine writes into the memory of a tensor, past and present are the same tensor. Elsewhere, and with a
 * `concat` cache, a call returns new ones, which `take` keeps.
 */
export class KvCache {
  capacity = 0;
  private values = new Map<string, Tensor>();
  private readonly specs: CacheTensor[];
  private readonly appends: boolean;

  constructor(
    private readonly manifest: Manifest,
    private readonly memory: CacheMemory,
  ) {
    this.specs = cacheTensors(manifest);
    this.appends = manifest.cache_form === "concat";
    this.resize(0, 0);
  }

  /** Makes room for `total` tokens, and keeps the first `used`. */
  reserve(total: number, used: number): void {
    if (this.appends) {
      if (used !== this.capacity) this.resize(used, used);
    } else if (total > this.capacity) {
      const step = Math.ceil(total / CACHE_STEP) * CACHE_STEP;
      this.resize(Math.min(step, Math.max(total, this.manifest.llm.max_length)), used);
    }
  }

  /** The tensors that a call reads, by the names of the graph's inputs. */
  get past(): Record<string, Tensor> {
    return Object.fromEntries(this.values);
  }

  /** The tensors that a call writes, by the names of the graph's outputs; null where it makes new ones. */
  get present(): Record<string, Tensor | null> {
    const shared = this.memory.inPlace && !this.appends;
    return Object.fromEntries(this.specs.map(({ past, present }) => [present, shared ? this.values.get(past)! : null]));
  }

  /** Keeps what a call returned; the cache then holds `total` tokens. */
  take(outputs: Readonly<Record<string, Tensor>>, total: number): void {
    if (this.memory.inPlace && !this.appends) return;
    for (const { past, present } of this.specs) {
      if (this.values.get(past) !== outputs[present]) this.values.get(past)!.dispose();
      this.values.set(past, outputs[present]);
    }
    if (this.appends) this.capacity = total;
  }

  /** Frees all tensors; the cache cannot be used afterwards. */
  dispose(): void {
    for (const tensor of this.values.values()) tensor.dispose();
    this.values.clear();
  }

  private resize(capacity: number, used: number): void {
    for (const spec of this.specs) {
      const larger = this.memory.zeros(
        spec.dtype,
        spec.shape.map((axis) => (axis === "past" ? capacity : axis)),
      );
      const old = this.values.get(spec.past);
      if (old) this.memory.copyTokens(old, larger, used);
      old?.dispose();
      this.values.set(spec.past, larger);
    }
    this.capacity = capacity;
  }
}

/** Tensors in the memory of the program. */
export class HostMemory implements CacheMemory {
  constructor(
    readonly inPlace: boolean,
    private readonly create: (array: GraphArray) => Tensor,
  ) {}

  zeros(dataType: CacheTensor["dtype"], dims: readonly number[]): Tensor {
    const size = product(dims);
    return this.create(
      dataType === "float"
        ? float32(new Float32Array(size), dims)
        : { type: "float16", data: new Uint16Array(size), dims },
    );
  }

  copyTokens(from: Tensor, to: Tensor, tokens: number): void {
    const [, heads, before, width] = from.dims;
    const after = to.dims[2];
    const [source, target] = [from.data, to.data] as unknown as Float32Array[];
    for (let head = 0; head < heads; head++) {
      const start = head * before * width;
      target.set(source.subarray(start, start + tokens * width), head * after * width);
    }
  }
}
