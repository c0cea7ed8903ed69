/** Converts pixels to patches, bit-identical to the Python runtime. */

import { resizeBicubic } from "./bicubic.js";
import type { ImageGeometry } from "./manifest.js";
import type { RgbImage } from "./media/images.js";
import { type Grid, tokensOf } from "./positions.js";
import { smartResize } from "./resize.js";

/** `pixelValues` [t, patches, patchDim], normalized. */
export interface Patches {
  pixelValues: Float32Array;
  patchDim: number;
  grid: Grid;
}

/** Side of one image token in pixels; image sides are multiples of it. */
export function factorOf(geometry: ImageGeometry): number {
  return geometry.patch_size * geometry.spatial_merge_size;
}

/** The patch grid of `frames` images of `size` [width, height] after resizing within the bounds. */
export function resizedGrid(
  size: readonly [number, number],
  frames: number,
  geometry: ImageGeometry,
  maxPixels: number,
  minPixels: number = geometry.min_pixels,
): Grid {
  const t = Math.ceil(frames / geometry.temporal_patch_size);
  const patch = geometry.patch_size;
  if (geometry.square) return { t, h: geometry.square / patch, w: geometry.square / patch };
  const low = Math.min(minPixels, maxPixels);
  const [height, width] = smartResize(size[1], size[0], factorOf(geometry), low, maxPixels);
  return { t, h: height / patch, w: width / patch };
}

/** The number of image tokens of a grid. */
export function imageTokens(grid: Grid, geometry: ImageGeometry): number {
  return grid.t * geometry.queries || tokensOf(grid, geometry.spatial_merge_size);
}

/** Frames resized to a grid (bicubic); the last is repeated to fill its temporal patch. */
export function resizedFrames(frames: readonly RgbImage[], geometry: ImageGeometry, grid: Grid): RgbImage[] {
  const patch = geometry.patch_size;
  const found = frames.map((frame) => resizeBicubic(frame, grid.w * patch, grid.h * patch));
  while (found.length < grid.t * geometry.temporal_patch_size) found.push(found[found.length - 1]);
  return found;
}

/** Resizes frames of one size, normalizes them, and cuts them into patches in merge order. */
export function patchify(frames: readonly RgbImage[], geometry: ImageGeometry, grid: Grid): Patches {
  return patchesOfPixels(resizedFrames(frames, geometry, grid), geometry, grid);
}

/** Normalizes frames resized by `resizedFrames`, and cuts them into patches in merge order. */
export function patchesOfPixels(frames: readonly RgbImage[], geometry: ImageGeometry, grid: Grid): Patches {
  const { patch_size: side, temporal_patch_size: depth, spatial_merge_size: merge } = geometry;
  const table = normalizationTable(geometry);
  const patchDim = 3 * depth * side * side;
  const pixelValues = new Float32Array(grid.t * grid.h * grid.w * patchDim);
  const across = grid.w / merge;
  const unit = merge * merge;
  let out = 0;
  for (let t = 0; t < grid.t; t++) {
    for (let patch = 0; patch < grid.h * grid.w; patch++) {
      const block = Math.floor(patch / unit);
      const inner = patch % unit;
      const top = (Math.floor(block / across) * merge + Math.floor(inner / merge)) * side;
      const left = ((block % across) * merge + (inner % merge)) * side;
      for (let channel = 0; channel < 3; channel++) {
        for (let frame = 0; frame < depth; frame++) {
          const { data, width } = frames[t * depth + frame];
          for (let row = 0; row < side; row++) {
            let from = ((top + row) * width + left) * 3 + channel;
            for (let column = 0; column < side; column++, from += 3) {
              pixelValues[out++] = table[channel * 256 + data[from]];
            }
          }
        }
      }
    }
  }
  return { pixelValues, patchDim, grid };
}

/** The value of each byte in each channel, [3, 256]: rescaled in float64, normalized in float32. */
export function normalizationTable(geometry: ImageGeometry): Float32Array {
  const table = new Float32Array(3 * 256);
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(geometry.image_mean[channel]);
    const std = Math.fround(geometry.image_std[channel]);
    for (let byte = 0; byte < 256; byte++) {
      table[channel * 256 + byte] = Math.fround(Math.fround(byte * (1 / 255)) - mean) / std;
    }
  }
  return table;
}
