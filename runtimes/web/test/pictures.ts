/** The pictures of the conformance vectors: pixels by formula (`tests/conformance/pictures.py`). */

import { hex, sha256 } from "../src/common/sha256.js";
import type { RgbImage } from "../src/media/images.js";

export interface Picture {
  formula: string;
  width: number;
  height: number;
  frame?: number;
}

type Formula = (x: number, y: number, c: number, f: number) => number;

const FORMULAS: Record<string, Formula> = {
  waves: (x, y, c, f) => (x * x + 3 * y * y * (c + 1) + 7 * x * y + 29 * c + 53 * f) % 256,
  checks: (x, y, c, f) => 255 * ((Math.floor(x / 3) + Math.floor(y / 2) + c + f) % 2),
  noise: (x, y, c, f) =>
    Math.floor(((x * 374761393 + y * 668265263 + c * 2246822519 + f * 3266489917) % 2 ** 32) / 2 ** 16) % 256,
  page: (x, y, c, f) => {
    const inked = f + 20 <= x && x < f + 70 && 30 <= y && y < 60 && (x - f) % 5 < 3 && y % 10 < 6;
    return inked ? 20 * c + 40 : 255;
  },
  scan: (x, y, c, f) => FORMULAS.page(x, y, c, f) - ((31 * x + 17 * y + 7 * c) % 5),
};

export function pixels({ formula, width, height, frame = 0 }: Picture): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) data[at++] = FORMULAS[formula](x, y, c, frame);
  }
  return { data, width, height };
}

/** The hash of an array's elements; every processor that Node runs on is little-endian. */
export async function hashOf(array: Uint8Array | Float32Array): Promise<string> {
  return hex(await sha256(new Uint8Array(array.buffer, array.byteOffset, array.byteLength)));
}
