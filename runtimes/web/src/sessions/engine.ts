/** The interface of engines, independent of what runs the graphs. */

import type { Grid, Positions } from "../positions.js";

/** Image features [1 + D, tokens, hidden]: `layers` has those of the image and of D DeepStack layers. */
export interface Features {
  layers: Float32Array[];
  tokens: number;
}

/**
 * One call of the `llm` graph: new tokens after `past` cached ones.
 *
 * `features` are for the tokens at `featureIndices`, logits are requested at `wanted`; both index from the first new
 * token. Tokens of an `answer` are run by the decode graph if the bundle has one.
 */
export interface LlmInputs {
  ids: readonly number[];
  positions: Positions;
  features: Features;
  featureIndices: readonly number[];
  wanted: readonly number[];
  past: number;
  answer: boolean;
  ntkAlpha: number;
}

/** Runs the graphs of one bundle and owns what their layers keep between calls, the cache. */
export interface Engine {
  /** Patches [frames, patches, dim] → features; patches are all of the grid, or those of its `cells`. */
  encode(pixelValues: Float32Array, grid: Grid, cells: readonly number[] | null): Promise<Features>;
  /** Returns logits [wanted, vocab]; the cache then holds past + new tokens. */
  forward(inputs: LlmInputs): Promise<Float32Array[]>;
  /** Frees the cache; the next call starts with an empty one. */
  clear(): void;
  /** Frees everything; the engine cannot be used afterwards. */
  close(): Promise<void>;
}
