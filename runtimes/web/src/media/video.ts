/** Which frames of a video are taken, and the pixel bounds of each, as in the Python runtime. */

import { range, roundHalfEven } from "../common/arrays.js";
import { checkInt } from "../common/checks.js";
import { PromptError } from "../errors.js";
import { MAX_ASPECT_RATIO, smartResize } from "../resize.js";

export const DEFAULT_FPS = 2;
/** Frames per temporal patch. */
const FRAME_FACTOR = 2;
const MIN_TOKENS = 128;
const MAX_TOKENS = 768;
/** Least and most image tokens of a size that is asked for. */
const RESIZED_TOKENS = [4, 16384] as const;
/** Fraction of the maximum length that the frames of one video may take together. */
const VIDEO_SHARE = 0.9;

export type Size = [number, number];

/** Pixel bounds that a part of a message asks for; null means the default. `resized` is [width, height]. */
export interface PixelBudget {
  minPixels: number | null;
  maxPixels: number | null;
  totalPixels: number | null;
  resized: Size | null;
}

/** Reads the budget of a content part; throws PromptError for values that contradict each other. */
export function budgetOf(part: Record<string, unknown>): PixelBudget {
  const read = (name: string) =>
    part[name] === undefined || part[name] === null ? null : checkInt(name, part[name], 1);
  const [minPixels, maxPixels, totalPixels] = [read("min_pixels"), read("max_pixels"), read("total_pixels")];
  if (minPixels !== null && maxPixels !== null && minPixels > maxPixels) {
    throw new PromptError(`min_pixels ${minPixels} is above max_pixels ${maxPixels}`);
  }
  const [height, width] = [read("resized_height"), read("resized_width")];
  if ((height === null) !== (width === null)) {
    throw new PromptError("resized_height and resized_width must be given together");
  }
  if (height !== null && width !== null && Math.max(height, width) > MAX_ASPECT_RATIO * Math.min(height, width)) {
    throw new PromptError(`resized_width ${width} to resized_height ${height} is above ${MAX_ASPECT_RATIO} to 1`);
  }
  return { minPixels, maxPixels, totalPixels, resized: height === null || width === null ? null : [width, height] };
}

/** The size that is asked for, in whole tokens, at least one per side. */
export function resizedTo(budget: PixelBudget, tokenSide: number): Size | null {
  if (budget.resized === null) return null;
  const [low, high] = RESIZED_TOKENS.map((tokens) => tokens * tokenSide ** 2);
  const [wide, tall] = budget.resized.map((side) => Math.max(tokenSide, roundHalfEven(side / tokenSide) * tokenSide));
  if (low <= wide * tall && wide * tall <= high) return [wide, tall];
  const [height, width] = smartResize(budget.resized[1], budget.resized[0], tokenSide, low, high);
  return [width, height];
}

/** Minimum and maximum pixels of each of `frames` frames; a token is `tokenSide` pixels square. */
export function frameBounds(budget: PixelBudget, frames: number, tokenSide: number, maxLength: number): Size {
  const token = tokenSide ** 2;
  const low = budget.minPixels ?? MIN_TOKENS * token;
  const total = budget.totalPixels ?? maxLength * token * VIDEO_SHARE;
  const pairs = Math.ceil(frames / FRAME_FACTOR) * FRAME_FACTOR;
  const share = Math.max(Math.min(MAX_TOKENS * token, (total / pairs) * FRAME_FACTOR), Math.trunc(low * 1.05));
  const high = Math.trunc(Math.min(budget.maxPixels ?? share, share));
  return [Math.min(low, high), high];
}

/** `count` evenly spaced indices of `total` frames, both ends included, in float32. */
export function evenlySpaced(total: number, count: number): number[] {
  const step = Math.fround((total - 1) / Math.max(count - 1, 1));
  return range(0, count).map((index) => {
    const fromStart = Math.fround(step * index);
    const fromEnd = Math.fround(total - 1 - Math.fround(step * (count - 1 - index)));
    return roundHalfEven(index < Math.max(Math.floor(count / 2), 1) ? fromStart : fromEnd);
  });
}
