/** The size that images are resized to: sides in whole tokens, within pixel bounds. */

import { roundHalfEven } from "./common/arrays.js";
import { MediaError } from "./errors.js";

export const MAX_ASPECT_RATIO = 200;

/** Returns [height, width] as multiples of `factor` within the bounds; throws MediaError above a ratio of 200. */
export function smartResize(
  height: number,
  width: number,
  factor: number,
  minPixels: number,
  maxPixels: number,
): [number, number] {
  if (Math.max(height, width) > MAX_ASPECT_RATIO * Math.min(height, width)) {
    throw new MediaError(`aspect ratio of ${width} × ${height} is above ${MAX_ASPECT_RATIO}`, {
      fix: "crop the image",
    });
  }
  let tall = roundHalfEven(height / factor) * factor;
  let wide = roundHalfEven(width / factor) * factor;
  if (tall * wide > maxPixels) {
    const shrink = Math.sqrt((height * width) / maxPixels);
    tall = Math.max(factor, Math.floor(height / shrink / factor) * factor);
    wide = Math.max(factor, Math.floor(width / shrink / factor) * factor);
  } else if (tall * wide < minPixels) {
    const grow = Math.sqrt(minPixels / (height * width));
    tall = Math.ceil((height * grow) / factor) * factor;
    wide = Math.ceil((width * grow) / factor) * factor;
  }
  return [tall, wide];
}
