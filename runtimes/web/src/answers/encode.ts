/** Runs the vision tower over placed media, over the kept blocks alone if some are left out. */

import type { Manifest } from "../manifest.js";
import { keyOf, type PlacedMedia, patchesOf } from "../prompts/prompt.js";
import { groupsOf, patchesOfCells } from "../prune/kept.js";
import type { Engine, Features } from "../sessions/engine.js";
import { FeatureCache } from "./feature_cache.js";

const FEATURE_CACHE_BYTES = 256 * 2 ** 20;

/** Encodes placed media with an engine, through a cache. */
export class CachedEncoder {
  private readonly cache = new FeatureCache(FEATURE_CACHE_BYTES);

  constructor(
    private readonly engine: Engine,
    private readonly manifest: Manifest,
  ) {}

  /** Returns the features of the whole media. */
  async encode(placed: PlacedMedia): Promise<Features> {
    const key = keyOf(placed);
    const known = this.cache.get(key);
    if (known !== undefined) return known;
    const features = await this.run(placed);
    this.cache.put(key, features);
    return features;
  }

  clear(): void {
    this.cache.clear();
  }

  private async run(placed: PlacedMedia): Promise<Features> {
    const { image, llm } = this.manifest;
    const { pixelValues, patchDim, grid } = patchesOf(placed, image);
    if (placed.kept === null) return this.engine.encode(pixelValues, grid, null);
    const firstRows = placed.kept.map((_, frame) =>
      placed.kept!.slice(0, frame).reduce((sum, cells) => sum + cells.length, 0),
    );
    const tokens = placed.kept.reduce((sum, cells) => sum + cells.length, 0);
    let whole: Features | null = null;
    for (const { frames, cells } of groupsOf(placed.kept)) {
      const patches = patchesOfCells(cells, image.spatial_merge_size);
      const chosen = new Float32Array(frames.length * patches.length * patchDim);
      frames.forEach((frame, index) => {
        patches.forEach((patch, place) => {
          const from = (frame * grid.h * grid.w + patch) * patchDim;
          chosen.set(pixelValues.subarray(from, from + patchDim), (index * patches.length + place) * patchDim);
        });
      });
      const found = await this.engine.encode(chosen, { ...grid, t: frames.length }, cells);
      const size = llm.hidden_size;
      whole ??= { tokens, layers: found.layers.map(() => new Float32Array(tokens * size)) };
      found.layers.forEach((layer, index) => {
        frames.forEach((frame, place) => {
          const rows = layer.subarray(place * cells.length * size, (place + 1) * cells.length * size);
          whole!.layers[index].set(rows, firstRows[frame] * size);
        });
      });
    }
    return whole!; // a grid has at least one temporal patch
  }
}
