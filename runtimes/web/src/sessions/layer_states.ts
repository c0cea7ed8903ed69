/** What the layers keep between calls: keys and values of every token. */

import type { Tensor } from "onnxruntime-common";
import { float32, type GraphArray, product } from "../common/arrays.js";
import { type CacheTensor, cacheTensors, type Manifest } from "../manifest.js";

/** The KV cache grows by multiples of this many tokens. */
export const CACHE_STEP = 512;

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
    private readonly inPlace: boolean,
    private readonly create: (array: GraphArray) => Tensor,
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
    const shared = this.inPlace && !this.appends;
    return Object.fromEntries(this.specs.map(({ past, present }) => [present, shared ? this.values.get(past)! : null]));
  }

  /** Keeps what a call returned; the cache then holds `total` tokens. */
  take(outputs: Readonly<Record<string, Tensor>>, total: number): void {
    if (this.inPlace && !this.appends) return;
    for (const { past, present } of this.specs) {
      if (this.values.get(past) !== outputs[present]) this.values.get(past)!.dispose();
      this.values.set(past, outputs[present]);
    }
    if (this.appends) this.capacity = total;
  }

  private resize(capacity: number, used: number): void {
    for (const spec of this.specs) {
      const dims = spec.shape.map((axis) => (axis === "past" ? capacity : axis));
      const array = empty(spec.dtype, dims);
      const old = this.values.get(spec.past);
      if (old) copyTokens(old, array, used);
      this.values.set(spec.past, this.create(array));
    }
    this.capacity = capacity;
  }
}

function empty(dtype: "float" | "float16", dims: number[]): GraphArray {
  const size = product(dims);
  return dtype === "float"
    ? float32(new Float32Array(size), dims)
    : { type: "float16", data: new Uint16Array(size), dims };
}

/** Copies the first tokens of every head. */
function copyTokens(from: Tensor, to: GraphArray, tokens: number): void {
  const [, heads, before, width] = from.dims;
  const after = to.dims[2];
  const source = from.data as unknown as Float32Array;
  for (let head = 0; head < heads; head++) {
    const start = head * before * width;
    (to.data as Float32Array).set(source.subarray(start, start + tokens * width), head * after * width);
  }
}
