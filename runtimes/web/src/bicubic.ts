/** Bicubic resizing of RGB bytes in integers, with the weights, the rounding and the order of passes of Pillow 13. */

import type { RgbImage } from "./media/images.js";

/** Bits of the fraction of a weight. */
const BITS = 22;

/** For one output: the first input, and the integer weights of the inputs from there on. */
interface Taps {
  first: number;
  weights: Int32Array;
}

function kernel(value: number): number {
  const x = Math.abs(value);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** Returns the taps of each of `after` outputs over `before` inputs. */
export function taps(before: number, after: number): Taps[] {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: after }, (_, output) => {
    const center = (output + 0.5) * scale;
    const first = Math.max(Math.trunc(center - 2 * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(center + 2 * stretch + 0.5), before);
    const weights = new Float64Array(last - first);
    let sum = 0;
    for (let index = 0; index < weights.length; index++) {
      weights[index] = kernel((first + index - center + 0.5) * (1 / stretch));
      sum += weights[index];
    }
    return { first, weights: Int32Array.from(weights, (weight) => rounded(weight / sum)) };
  });
}

function rounded(weight: number): number {
  return Math.trunc(weight * 2 ** BITS + (weight < 0 ? -0.5 : 0.5));
}

/** Resizes an image. Columns come first, unless rows are removed, and more than twice as many as columns. */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  const rowsFirst = image.height - height > Math.max(0, 2 * (image.width - width));
  return rowsFirst ? columns(rows(image, height), width) : rows(columns(image, width), height);
}

function columns(image: RgbImage, width: number): RgbImage {
  if (width === image.width) return image;
  const data = new Uint8Array(width * image.height * 3);
  const step = image.width * 3;
  for (const [x, { first, weights }] of taps(image.width, width).entries()) {
    for (let y = 0; y < image.height; y++) {
      const start = y * step + first * 3;
      accumulate(image.data, start, 3, weights, data, (y * width + x) * 3);
    }
  }
  return { data, width, height: image.height };
}

function rows(image: RgbImage, height: number): RgbImage {
  if (height === image.height) return image;
  const step = image.width * 3;
  const data = new Uint8Array(step * height);
  for (const [y, { first, weights }] of taps(image.height, height).entries()) {
    for (let x = 0; x < image.width; x++) {
      accumulate(image.data, first * step + x * 3, step, weights, data, y * step + x * 3);
    }
  }
  return { data, width: image.width, height };
}

/** Writes three channels of one output: the weighted sum of inputs that are `step` bytes apart. Sums fit 32 bits. */
function accumulate(
  from: Uint8Array,
  start: number,
  step: number,
  weights: Int32Array,
  to: Uint8Array,
  at: number,
): void {
  let red = 1 << (BITS - 1);
  let green = red;
  let blue = red;
  for (let index = 0, offset = start; index < weights.length; index++, offset += step) {
    const weight = weights[index];
    red += from[offset] * weight;
    green += from[offset + 1] * weight;
    blue += from[offset + 2] * weight;
  }
  to[at] = clipped(red);
  to[at + 1] = clipped(green);
  to[at + 2] = clipped(blue);
}

function clipped(sum: number): number {
  const value = sum >> BITS;
  return Math.max(0, Math.min(value, 255));
}
