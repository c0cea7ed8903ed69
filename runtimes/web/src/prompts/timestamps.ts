/** Timestamps of video frames as text, for families that use them instead of temporal positions. */

import { roundHalfEven } from "../common/arrays.js";
import type { ImageTokens } from "../manifest.js";

const VIDEO_PAD = "<|video_pad|>";
/** The tokens around image tokens in bundles that do not say it, before schema 10. */
export const VISION_BLOCK: ImageTokens = { start: "<|vision_start|>", end: "<|vision_end|>", layout: "grid" };

/** The seconds of every temporal patch: the mean of its first and last frame; the last frame is repeated. */
export function patchTimes(times: readonly number[], size: number): number[] {
  const seconds: number[] = [];
  for (let first = 0; first < times.length; first += size) {
    const last = Math.min(first + size, times.length) - 1;
    seconds.push((times[first] + times[last]) / 2);
  }
  return seconds;
}

/** Replaces each video's placeholder in a rendered prompt by a timestamp and a vision block per temporal patch. */
export function writeTimes(text: string, videos: readonly (readonly number[])[], around = VISION_BLOCK): string {
  let next = 0;
  return text.replaceAll(VIDEO_PAD, (pad) => {
    const times = videos[next++];
    if (times === undefined) return pad;
    return times.map((time) => `<${oneDecimal(time)} seconds>${around.start}${VIDEO_PAD}${around.end}`).join("");
  });
}

/** The decimal form with one digit that is nearest to the number's exact binary value; of two the even one. */
function oneDecimal(value: number): string {
  const scaled = value * 4; // only odd quarters lie exactly between two decimals
  const exactHalf = Number.isInteger(scaled) && Math.abs(scaled % 2) === 1;
  return exactHalf ? (roundHalfEven(value * 10) / 10).toFixed(1) : value.toFixed(1);
}
