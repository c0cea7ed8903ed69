/** The vision graph's indices for the kept blocks of an image or video. */

import { range } from "../common/arrays.js";
import type { Windows } from "../positions.js";

/** Temporal patches that keep the same cells: they can be one batch. */
export interface Group {
  frames: number[];
  cells: readonly number[];
}

/** Groups temporal patches by the cells [t][n] that they keep. */
export function groupsOf(kept: readonly (readonly number[])[]): Group[] {
  const found = new Map<string, Group>();
  kept.forEach((cells, frame) => {
    const key = cells.join(",");
    const group = found.get(key);
    if (group) group.frames.push(frame);
    else found.set(key, { frames: [frame], cells });
  });
  return [...found.values()];
}

/** The indices of the patches of cells in merge order. */
export function patchesOfCells(cells: readonly number[], merge: number): number[] {
  const unit = merge * merge;
  return cells.flatMap((cell) => range(cell * unit, (cell + 1) * unit));
}

/** The windows of `size` slots for some `patches`: patches move to the front, and empty windows are left out. */
export function keptWindows(windows: Windows, patches: readonly number[], size: number): Windows {
  const slots = patches.map((patch) => windows.scatter[patch]);
  const order = range(0, slots.length).sort((a, b) => slots[a] - slots[b]);
  const lengths: number[] = [];
  const scatter = new Int32Array(slots.length);
  let last = -1;
  for (const index of order) {
    const window = Math.floor(slots[index] / size);
    if (window !== last) lengths.push(0);
    last = window;
    scatter[index] = (lengths.length - 1) * size + lengths[lengths.length - 1]++;
  }
  const gather = new Int32Array(lengths.length * size);
  scatter.forEach((slot, index) => {
    gather[slot] = index;
  });
  return { gather, lengths: Int32Array.from(lengths), scatter };
}
