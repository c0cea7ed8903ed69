/**
 * Chooses the blocks of an image or video that the vision tower needs to see.
 *
 * A block is the square of pixels of one image token. Blocks are read row by row. Each is predicted from its neighbors,
 * and left out if the prediction holds. See `qvl_runtime/prune/blocks.py`, whose results these are.
 */

import { range, roundHalfEven } from "../common/arrays.js";
import type { RgbImage } from "../media/images.js";

/** Side in pixels of the boxes whose means are compared by a tolerance. */
const BOX = 4;
/** Fewest blocks that are kept of a temporal patch (of a smaller one: all). */
export const LEAST = 4;

/** What is compared of a block: a number for equal pixels, or the means of its boxes. */
type Signature = Float32Array;

/** The kept blocks of each temporal patch, numbered row by row. `frames` are those of the temporal patches. */
export function keptBlocks(
  frames: readonly RgbImage[],
  perPatch: number,
  factor: number,
  tolerance: number,
  least = LEAST,
): number[][] {
  const columns = frames[0].width / factor;
  const signed = tolerance ? boxMeans(frames, perPatch, factor) : labels(frames, perPatch, factor);
  let before: Signature[] | null = null;
  return signed.map((signatures) => {
    const seen: Signature[] = [...signatures];
    const leftOut = predicted(seen, columns, tolerance, before);
    before = seen;
    const kept = leftOut.map((out, place) => !out || isCorner(leftOut, place, columns));
    keepAtLeast(kept, least);
    return range(0, kept.length).filter((place) => kept[place]);
  });
}

/** A number for every block of every temporal patch: equal numbers mean equal pixels. */
function labels(frames: readonly RgbImage[], perPatch: number, factor: number): Signature[][] {
  const numbers = new Map<string, number>();
  return patchesOf(frames, perPatch).map((patch) =>
    blocksOf(patch[0], factor).map(([top, left]) => {
      const text = patch.map((frame) => textOf(frame, top, left, factor)).join("");
      const number = numbers.get(text) ?? numbers.size;
      numbers.set(text, number);
      return Float32Array.of(number);
    }),
  );
}

/** A block's bytes as a text, for comparison. */
function textOf({ data, width }: RgbImage, top: number, left: number, side: number): string {
  const rows = range(top, top + side).map((row) =>
    data.subarray((row * width + left) * 3, (row * width + left + side) * 3),
  );
  return rows.map((row) => String.fromCharCode(...row)).join("");
}

/** The means of every block's boxes, in float32: frame by frame, row by row, each channel. */
function boxMeans(frames: readonly RgbImage[], perPatch: number, factor: number): Signature[][] {
  let side = Math.min(BOX, factor);
  while (factor % side) side--;
  const count = factor / side;
  return patchesOf(frames, perPatch).map((patch) =>
    blocksOf(patch[0], factor).map(([top, left]) => {
      const means = new Float32Array(patch.length * count * count * 3);
      let out = 0;
      for (const frame of patch) {
        for (let box = 0; box < count * count; box++) {
          const boxTop = top + Math.floor(box / count) * side;
          const boxLeft = left + (box % count) * side;
          for (let channel = 0; channel < 3; channel++) means[out++] = mean(frame, boxTop, boxLeft, side, channel);
        }
      }
      return means;
    }),
  );
}

function mean({ data, width }: RgbImage, top: number, left: number, side: number, channel: number): number {
  let sum = 0;
  for (let row = top; row < top + side; row++) {
    for (let column = left; column < left + side; column++) sum += data[(row * width + column) * 3 + channel];
  }
  return sum / (side * side);
}

function patchesOf(frames: readonly RgbImage[], perPatch: number): RgbImage[][] {
  return range(0, frames.length / perPatch).map((index) => frames.slice(index * perPatch, (index + 1) * perPatch));
}

/** Top and left pixel of every block, row by row. */
function blocksOf({ width, height }: RgbImage, factor: number): [number, number][] {
  const columns = width / factor;
  return range(0, (height / factor) * columns).map((place) => [
    Math.floor(place / columns) * factor,
    (place % columns) * factor,
  ]);
}

/** Whether each block's prediction holds; `seen` becomes the reconstruction, in which it looks like its prediction. */
function predicted(seen: Signature[], columns: number, tolerance: number, before: Signature[] | null): boolean[] {
  return range(0, seen.length).map((place) => {
    if (before !== null && near(seen[place], before[place], tolerance)) {
      seen[place] = before[place];
      return true;
    }
    if (place === 0) return false;
    const guess = seen[isUpward(seen, place, columns, tolerance) ? place - columns : place - 1];
    if (!near(seen[place], guess, tolerance)) return false;
    seen[place] = guess;
    return true;
  });
}

/** Whether the block above predicts, rather than the one at the left. */
function isUpward(seen: Signature[], place: number, columns: number, tolerance: number): boolean {
  if (place % columns === 0) return true;
  if (place < columns) return false;
  const corner = seen[place - columns - 1];
  return near(corner, seen[place - 1], tolerance) && !near(corner, seen[place - columns], tolerance);
}

function near(a: Signature, b: Signature, tolerance: number): boolean {
  return a.every((value, index) => Math.abs(Math.fround(value - b[index])) <= tolerance);
}

/** Whether a block is a corner of a region of blocks that are left out; outside the image is outside the region. */
function isCorner(leftOut: boolean[], place: number, columns: number): boolean {
  const column = place % columns;
  const level = column > 0 && leftOut[place - 1] && column < columns - 1 && leftOut[place + 1];
  const upright = leftOut[place - columns] && leftOut[place + columns];
  return leftOut[place] && !level && !upright;
}

/** Keeps further blocks, evenly spread over those left out; in place. */
function keepAtLeast(kept: boolean[], least: number): void {
  const others = range(0, kept.length).filter((place) => !kept[place]);
  const missing = Math.min(least, kept.length) - (kept.length - others.length);
  const step = missing > 1 ? (others.length - 1) / (missing - 1) : 0;
  for (let index = 0; index < missing; index++) kept[others[roundHalfEven(index * step)]] = true;
}
