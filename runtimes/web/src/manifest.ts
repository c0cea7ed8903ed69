/** The types of `bundle.json`; `bundle` reads the file. Names and meaning are those of `qvl_runtime/manifest.py`. */

export const SCHEMA_VERSION = 10;
export const MANIFEST = "bundle.json";
/** A second graph of the language model, which runs the tokens of answers; only hybrid bundles have it. */
export const DECODE = "llm_decode";

export interface FileEntry {
  size: number;
  sha256: string;
}

export interface Port {
  name: string;
  dtype: string;
  shape: (number | string)[];
}

export interface GraphEntry {
  model: string;
  data: string | null;
  inputs: Port[];
  outputs: Port[];
  precision: string;
  weight_bytes: Record<string, number>;
  linears: Record<string, string>;
  engine: unknown;
}

/** A tensor that a layer keeps between calls; the axis "past" is the capacity in tokens. */
export interface CacheTensor {
  past: string;
  present: string;
  dtype: "float" | "float16";
  shape: (number | "past")[];
}

/** What one layer keeps between calls: keys and values of every token, or a state that sums up all tokens so far. */
export interface CacheSpec {
  kind: "kv" | "recurrent";
  tensors: CacheTensor[];
}

export interface ImageGeometry {
  patch_size: number;
  temporal_patch_size: number;
  spatial_merge_size: number;
  min_pixels: number;
  max_pixels: number;
  image_mean: number[];
  image_std: number[];
  window: number;
  position_table: number;
  square: number;
  queries: number;
  prune: number | "off" | "exact" | "scan" | null;
}

export interface LlmGeometry {
  hidden_size: number;
  vocab_size: number;
  num_layers: number;
  num_key_value_heads: number;
  head_dim: number;
  max_length: number;
  deepstack_layers: number;
  rotation_seed: number | null;
  flat_positions: boolean;
  ntk_length: number;
}

export interface Tokens {
  image: number;
  video: number | null;
  stop: number[];
}

/** How an image stands in a prompt. */
export interface ImageTokens {
  start: string;
  end: string;
  layout: "grid" | "queries";
}

/** How answers write boxes and points. */
export interface BoxNotation {
  syntax: "json" | "marks";
  unit: "thousandth" | "pixel";
}

export interface VideoTiming {
  tokens_per_second: number | null;
  timestamps: boolean;
}

/** Sampling options of the checkpoint; they apply only on request. */
export interface GenerationDefaults {
  do_sample: boolean;
  temperature: number;
  top_k: number;
  top_p: number;
  min_p: number;
  repetition_penalty: number;
  no_repeat_ngram_size: number;
  max_new_tokens: number | null;
}

export interface Manifest {
  schema_version: number;
  family: string;
  target: string;
  image: ImageGeometry;
  llm: LlmGeometry;
  tokens: Tokens;
  video: VideoTiming;
  graphs: Record<string, GraphEntry>;
  files: Record<string, FileEntry>;
  provenance: Record<string, unknown>;
  special_tokens: Record<string, string>;
  generation: GenerationDefaults | null;
  cpu: "any" | "avx2" | "vnni" | "amx" | "arm" | null;
  cache: CacheSpec[];
  cache_form: "scatter" | "concat";
  boxes: BoxNotation | null;
  image_tokens: ImageTokens | null;
}

/** What each layer keeps between calls; bundles made before `cache` was recorded have keys and values alone. */
export function cacheSpecs(manifest: Manifest): CacheSpec[] {
  if (manifest.cache.length > 0) return manifest.cache;
  const { num_layers, num_key_value_heads, head_dim } = manifest.llm;
  const port = manifest.graphs.llm.inputs.find((input) => input.name === "past_key_values.0.key");
  const dtype = port?.dtype === "float16" ? "float16" : "float";
  const tensor = (layer: number, part: string): CacheTensor => ({
    past: `past_key_values.${layer}.${part}`,
    present: `present.${layer}.${part}`,
    dtype,
    shape: [1, num_key_value_heads, "past", head_dim],
  });
  return Array.from({ length: num_layers }, (_, layer) => ({
    kind: "kv",
    tensors: [tensor(layer, "key"), tensor(layer, "value")],
  }));
}

/** Bytes of an element of the cache. */
export const ELEMENT_BYTES: Record<CacheTensor["dtype"], number> = { float: 4, float16: 2 };

/** What layers keep, layer by layer. */
export function cacheTensors(manifest: Manifest): CacheTensor[] {
  return cacheSpecs(manifest).flatMap((spec) => spec.tensors);
}

/** The files of a graph's weights: those of more than a file may hold go on in further ones, with numbers. */
export function dataFiles({ files }: Manifest, { data }: GraphEntry): string[] {
  if (data === null) return [];
  const more = Object.keys(files).map((_, index) => `${data}.${index + 1}`);
  return [data, ...more.filter((name) => Object.hasOwn(files, name))];
}
