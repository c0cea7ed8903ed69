/** Bundles of earlier schema versions, what they were asked, and the logits that they gave in their time. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { Message } from "../src/index.js";

export const BUNDLES = "../../tests/checkpoints/bundles";
/** Of a difference. Logits have a standard deviation of 6; these were kept in float16, from another processor. */
export const LARGEST = 0.02;
export const MESSAGES: Message[] = [
  {
    role: "user",
    content: [
      { type: "image", image: ramp(84, 56) },
      { type: "text", text: "Read the text." },
    ],
  },
];

export function ramp(width: number, height: number) {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, at) => {
    const pixel = Math.floor(at / 3);
    return ((pixel % width) + Math.floor(pixel / width)) * ((at % 3) + 1);
  });
  return { data, width, height };
}

export const ANSWER = "Total: 12";

/** The rows of a float16 array in a file of NumPy. */
function readRows(path: string): number[][] {
  const file = readFileSync(path);
  const header = file.readUInt16LE(8);
  const text = file.toString("latin1", 10, 10 + header);
  const [rows, columns] = (/'shape': \((\d+), (\d+)\)/.exec(text) ?? []).slice(1).map(Number);
  assert.match(text, /'descr': '<f2', 'fortran_order': False/);
  const value = (index: number) => float16(file.readUInt16LE(10 + header + 2 * index));
  return Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_, c) => value(row * columns + c)));
}

function float16(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

/** The largest difference of a version's logits from those of its time. */
export function differenceOf(version: number, found: readonly ArrayLike<number>[]): number {
  return largestDifference(readRows(`${BUNDLES}/v${version}.logits.npy`), found);
}

export function largestDifference(expected: readonly ArrayLike<number>[], found: readonly ArrayLike<number>[]): number {
  assert.equal(found.length, expected.length);
  const ofRow = (row: ArrayLike<number>, at: number) =>
    Math.max(...Array.from(row, (value, token) => Math.abs(value - found[at][token])));
  return Math.max(...expected.map(ofRow));
}
