/** Chooses, for the media of one prompt, the blocks that the model sees. */

import { PromptError } from "../errors.js";
import type { Manifest } from "../manifest.js";
import type { Grid } from "../positions.js";
import { factorOf, imageTokens } from "../preprocess.js";
import { keptBlocks } from "../prune/blocks.js";
import { OFF, type Rule } from "../prune/rule.js";
import type { Media } from "./content.js";

/** Kept blocks per temporal patch. */
export type Kept = readonly (readonly number[])[];

/** Blocks by media and grid, computed once each; media without a rule of their own follow the default. */
export class Selection {
  private readonly found = new Map<Media, Map<string, Kept | null>>();

  constructor(
    private readonly manifest: Manifest,
    private readonly preset: Rule = OFF,
  ) {}

  /** The blocks that are kept of media resized to a grid; null if all are. */
  kept(item: Media, grid: Grid): Kept | null {
    const { tolerance } = item.prune ?? this.preset;
    if (tolerance === null) return null;
    if (this.manifest.image.square) {
      throw new PromptError("this model cannot leave out any part of its images", { fix: "leave prune out" });
    }
    const grids = this.found.get(item) ?? new Map<string, Kept | null>();
    this.found.set(item, grids);
    const key = `${grid.h},${grid.w}`;
    if (!grids.has(key)) grids.set(key, this.choose(item, grid, tolerance));
    return grids.get(key) as Kept | null;
  }

  /** The number of image tokens of media resized to a grid. */
  tokens(item: Media, grid: Grid): number {
    const kept = this.kept(item, grid);
    if (kept === null) return imageTokens(grid, this.manifest.image);
    return kept.reduce((sum, cells) => sum + cells.length, 0);
  }

  private choose(item: Media, grid: Grid, tolerance: number): Kept | null {
    const { image } = this.manifest;
    const frames = item.resized(image, grid);
    const single = item.kind === "image"; // the other frames repeat it
    const kept = keptBlocks(
      single ? frames.slice(0, 1) : frames,
      single ? 1 : image.temporal_patch_size,
      factorOf(image),
      tolerance,
    );
    const all = (grid.h / image.spatial_merge_size) * (grid.w / image.spatial_merge_size);
    return kept.every((cells) => cells.length === all) ? null : kept;
  }
}
