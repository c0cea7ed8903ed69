/**
 * Index inputs of the graphs, computed on the host.
 *
 * Grids are in patches: `t` temporal patches of `h` × `w`. Patches are in merge order: the `merge` × `merge` patches of
 * one image token are adjacent.
 */

import { range } from "./common/arrays.js";

export interface Grid {
  readonly t: number;
  readonly h: number;
  readonly w: number;
}

/** The number of image tokens of a grid, one per merge × merge patches. */
export function tokensOf(grid: Grid, merge: number): number {
  return grid.t * Math.floor(grid.h / merge) * Math.floor(grid.w / merge);
}

/** Row and column of every patch of one frame in merge order: [row, column, row, column, …]. */
export function patchPositions(grid: Grid, merge: number): Int32Array {
  const positions = new Int32Array(grid.h * grid.w * 2);
  const across = grid.w / merge;
  const unit = merge * merge;
  for (let patch = 0; patch < grid.h * grid.w; patch++) {
    const block = Math.floor(patch / unit);
    const inner = patch % unit;
    positions[2 * patch] = Math.floor(block / across) * merge + Math.floor(inner / merge);
    positions[2 * patch + 1] = (block % across) * merge + (inner % merge);
  }
  return positions;
}

/** Rows of a position table around each patch of a frame, and their weights, both [4, patches] in merge order. */
export interface Interpolation {
  indices: Int32Array;
  weights: Float32Array;
}

/** Bilinear interpolation of a `side` × `side` position table over one frame, with aligned corners, in float32. */
export function interpolation(grid: Grid, merge: number, side: number): Interpolation {
  const patches = grid.h * grid.w;
  const cells = patchPositions(grid, merge);
  const rows = neighbors(grid.h, side);
  const columns = neighbors(grid.w, side);
  const indices = new Int32Array(4 * patches);
  const weights = new Float32Array(4 * patches);
  for (let corner = 0; corner < 4; corner++) {
    for (let patch = 0; patch < patches; patch++) {
      const row = rows[cells[2 * patch]][corner >> 1];
      const column = columns[cells[2 * patch + 1]][corner & 1];
      indices[corner * patches + patch] = row.index * side + column.index;
      weights[corner * patches + patch] = row.weight * column.weight;
    }
  }
  return { indices, weights };
}

interface Neighbor {
  index: number;
  weight: number;
}

/** The entries before and after each of `size` positions over `side` entries. */
function neighbors(size: number, side: number): [Neighbor, Neighbor][] {
  return range(0, size).map((index) => {
    const position = Math.fround(Math.fround(index * (side - 1)) / Math.max(size - 1, 1));
    const before = Math.floor(position);
    const at = (entry: number): Neighbor => ({
      index: Math.min(entry, side - 1),
      weight: Math.fround(1 - Math.fround(Math.abs(Math.fround(position - entry)))),
    });
    return [at(before), at(before + 1)];
  });
}

/**
 * Attention windows of one frame: `gather` [windows · size] patch indices (padding repeats patch 0), `lengths` [windows]
 * numbers of real patches, `scatter` [patches] indices in the gathered order.
 */
export interface Windows {
  gather: Int32Array;
  lengths: Int32Array;
  scatter: Int32Array;
}

/** Windows of `side` × `side` merged cells in row-major order; those at the right and bottom may be smaller. */
export function windowLayout(grid: Grid, merge: number, side: number): Windows {
  const rows = grid.h / merge;
  const columns = grid.w / merge;
  const down = Math.ceil(rows / side);
  const across = Math.ceil(columns / side);
  const unit = merge * merge;
  const size = side * side * unit;
  const gather = new Int32Array(down * across * size);
  const lengths = new Int32Array(down * across);
  const scatter = new Int32Array(grid.h * grid.w);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const window = Math.floor(row / side) * across + Math.floor(column / side);
      for (let inner = 0; inner < unit; inner++) {
        const patch = (row * columns + column) * unit + inner;
        const slot = window * size + lengths[window]++;
        gather[slot] = patch;
        scatter[patch] = slot;
      }
    }
  }
  return { gather, lengths, scatter };
}

/**
 * Image tokens in a prompt: first token, merged grid, and temporal positions per temporal patch.
 *
 * Without those cells of the grid that are not `kept` (null: all are), numbered frame by frame and row by row.
 */
export interface VisionSpan extends Grid {
  readonly start: number;
  readonly interval: number;
  readonly kept: readonly number[] | null;
}

export function spanCells(span: VisionSpan): number {
  return span.t * span.h * span.w;
}

export function spanTokens(span: VisionSpan): number {
  return span.kept === null ? spanCells(span) : span.kept.length;
}

/** Positions of time, row and column of each token. */
export type Positions = [number[], number[], number[]];

/**
 * Positions of a prompt of `length` tokens; `spans` are in order and do not overlap.
 *
 * Text advances all axes by one per token; a span starts at the current position and advances it by its longer side,
 * whatever of it is kept.
 */
export function mropePositions(length: number, spans: readonly VisionSpan[]): Positions {
  const positions: Positions = [[], [], []];
  let token = 0;
  let position = 0;
  const addText = (count: number) => {
    for (const axis of positions) for (let index = 0; index < count; index++) axis.push(position + index);
    position += count;
  };
  for (const span of spans) {
    addText(span.start - token);
    addVision(positions, position, span);
    position += Math.max(span.h, span.w);
    token = span.start + spanTokens(span);
  }
  addText(length - token);
  return positions;
}

function addVision(positions: Positions, start: number, span: VisionSpan): void {
  const area = span.h * span.w;
  for (const cell of span.kept ?? range(0, spanCells(span))) {
    const frame = Math.floor(cell / area);
    const time = Math.trunc(Math.fround(frame * Math.fround(span.interval)));
    positions[0].push(start + time);
    positions[1].push(start + Math.floor((cell % area) / span.w));
    positions[2].push(start + (cell % span.w));
  }
}

/** Positions of `count` text tokens, of which the first has the position `start` on all axes. */
export function textPositions(start: number, count: number): Positions {
  const axis = range(start, start + count);
  return [axis, axis, axis];
}

/** The factor α of the RoPE base (dynamic NTK): 1 up to the `trained` length, 3 up to twice that, 7 up to four times. */
export function ntkAlpha(length: number, trained: number): number {
  if (!trained || length <= trained) return 1;
  return 2 ** Math.ceil(Math.log2(length / trained) + 1) - 1;
}
