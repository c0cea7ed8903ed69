/** The graph inputs other than pixels and KV cache: token ids, features, indices, positions and lengths. */

import { type Feeds, float32, type GraphArray, int32, int64, range } from "../common/arrays.js";
import type { ImageGeometry, Manifest } from "../manifest.js";
import { type Grid, interpolation, patchPositions, windowLayout } from "../positions.js";
import { keptWindows, patchesOfCells } from "../prune/kept.js";
import type { LlmInputs } from "./engine.js";

/** The vision graph's inputs except the pixels, for all patches or for those in the kept `cells` of every frame. */
export function visionFeeds(image: ImageGeometry, grid: Grid, cells: readonly number[] | null): Feeds {
  if (image.queries) return {};
  const merge = image.spatial_merge_size;
  const patches = cells === null ? range(0, grid.h * grid.w) : patchesOfCells(cells, merge);
  const all = patchPositions(grid, merge);
  const places = patches.flatMap((patch) => [all[2 * patch], all[2 * patch + 1]]);
  const feeds: Feeds = { patch_positions: int64(repeated(places, grid.t), [grid.t, patches.length, 2]) };
  if (image.window) {
    const whole = windowLayout(grid, merge, image.window);
    const windows = cells === null ? whole : keptWindows(whole, patches, (image.window * merge) ** 2);
    const lengths = repeated([...windows.lengths], grid.t);
    feeds.window_gather = int64(windows.gather, [windows.gather.length]);
    feeds.window_lengths = int32(lengths, [lengths.length]);
    feeds.window_scatter = int64(windows.scatter, [windows.scatter.length]);
  }
  if (image.position_table) {
    const { indices, weights } = interpolation(grid, merge, image.position_table);
    const columns = range(0, 4).flatMap((corner) => patches.map((patch) => corner * grid.h * grid.w + patch));
    const dims = [4, patches.length];
    feeds.interpolation_indices = int64(
      columns.map((at) => indices[at]),
      dims,
    );
    feeds.interpolation_weights = float32(
      Float32Array.from(columns, (at) => weights[at]),
      dims,
    );
  }
  return feeds;
}

function repeated(values: readonly number[], times: number): number[] {
  return range(0, times).flatMap(() => values);
}

/** The `llm` graph's inputs except the KV cache, which has room for `capacity` tokens. */
export function llmFeeds(manifest: Manifest, inputs: LlmInputs, capacity: number): Feeds {
  const count = inputs.ids.length;
  const hidden = manifest.llm.hidden_size;
  const [first, ...deepstack] = inputs.features.layers.map((layer) => float32(layer, [inputs.features.tokens, hidden]));
  const feeds: Feeds = {
    input_ids: int64(inputs.ids, [1, count]),
    position_ids: int64(inputs.positions.flat(), [3, 1, count]),
    image_features: first,
    image_positions: int64(
      inputs.featureIndices.flatMap((index) => [0, index]),
      [inputs.featureIndices.length, 2],
    ),
    logits_positions: int64(inputs.wanted, [inputs.wanted.length]),
    ...cacheState(manifest, inputs.past, inputs.past + count, capacity),
  };
  deepstack.forEach((layer, index) => {
    feeds[`deepstack_features.${index}`] = layer;
  });
  if (manifest.llm.ntk_length) feeds.ntk_alpha = float32(Float32Array.of(inputs.ntkAlpha), [1]);
  return feeds;
}

/** The target's inputs that describe the cache: `past` of `total` tokens are in it, of `capacity`. */
export function cacheState(
  { target, cache_form: form }: Pick<Manifest, "target" | "cache_form">,
  past: number,
  total: number,
  capacity: number,
): Feeds {
  if (target === "cpu" || target === "web") {
    return { seqlens_k: int32([total - 1], [1]), total_sequence_length: int32([total], []) };
  }
  const mask = causalMask(past, total, capacity);
  return form === "concat" ? { attention_mask: mask } : { write_indices: int64([past], [1]), attention_mask: mask };
}

function causalMask(past: number, total: number, capacity: number): GraphArray {
  const data = new Uint8Array((total - past) * capacity);
  for (let row = 0; row < total - past; row++) data.fill(1, row * capacity, row * capacity + past + row + 1);
  return { type: "bool", data, dims: [1, 1, total - past, capacity] };
}
