/** Turns chat messages into token ids: collects media, scales them to fit, expands placeholders, assigns positions. */

import { sha256 } from "../common/sha256.js";
import { PromptError } from "../errors.js";
import type { ImageGeometry, Manifest } from "../manifest.js";
import {
  type Grid,
  mropePositions,
  ntkAlpha,
  type Positions,
  spanTokens,
  textPositions,
  type VisionSpan,
} from "../positions.js";
import { factorOf, type Patches, patchesOfPixels } from "../preprocess.js";
import type { Rule } from "../prune/rule.js";
import type { TemplateMessage } from "../templates/chat.js";
import { collect, type Media, type Message } from "./content.js";
import { type Kept, Selection } from "./selection.js";
import { patchTimes, VISION_BLOCK, writeTimes } from "./timestamps.js";

/**
 * Media, or some temporal patches of it, with its span in the prompt and the patch grid it is resized to.
 *
 * Its features start at row `firstRow` of the media's features, which are those of the `kept` blocks (null: of all).
 */
export interface PlacedMedia {
  media: Media;
  span: VisionSpan;
  grid: Grid;
  firstRow: number;
  kept: Kept | null;
}

/** Equal keys mean equal image features. */
export function keyOf({ media, grid, kept }: PlacedMedia): string {
  return `${media.digest} ${grid.t} ${grid.h} ${grid.w} ${kept === null ? "" : JSON.stringify(kept)}`;
}

/** The pixels of all blocks in the layout that the vision graph takes. */
export function patchesOf({ media, grid }: PlacedMedia, geometry: ImageGeometry): Patches {
  return patchesOfPixels(media.resized(geometry, grid), geometry, grid);
}

export interface Prompt {
  ids: number[];
  positions: Positions;
  placed: PlacedMedia[];
  ntkAlpha: number;
  /** The M-RoPE position of the first generated token, on all three axes. */
  nextPosition: number;
  /** How many of the last tokens belong to an answer. */
  answerTokens: number;
  /** Keys of the tokens: equal prefixes of keys mean equal KV cache entries. */
  keys: number[];
}

/** Media of a prompt as who asks sees it: the size of its frames, where it stands, and what it was resized to. */
export interface PlacedInfo {
  readonly media: {
    readonly kind: "image" | "video";
    readonly frames: readonly { readonly width: number; readonly height: number }[];
  };
  readonly span: VisionSpan;
  readonly grid: Grid;
}

/** A prompt as who asks sees it. */
export interface PromptInfo {
  readonly ids: readonly number[];
  readonly placed: readonly PlacedInfo[];
}

/** The prompt followed by the text tokens of an answer. */
export function followedBy(prompt: Prompt, ids: readonly number[]): Prompt {
  const added = textPositions(prompt.nextPosition, ids.length);
  return {
    ...prompt,
    ids: [...prompt.ids, ...ids],
    positions: prompt.positions.map((axis, index) => [...axis, ...added[index]]) as Positions,
    nextPosition: prompt.nextPosition + ids.length,
    answerTokens: prompt.answerTokens + ids.length,
    keys: [...prompt.keys, ...textKeys(ids, prompt.ntkAlpha)],
  };
}

/** Builds a prompt that leaves `reserve` tokens of the bundle's maximum length for the answer. */
export async function buildPrompt(
  messages: readonly Message[],
  manifest: Manifest,
  render: (messages: readonly TemplateMessage[]) => string,
  encode: (text: string) => number[],
  reserve: number,
  prune?: Rule,
): Promise<Prompt> {
  const { cleaned, media } = await collect(messages, manifest);
  const { tokens } = manifest;
  const raw = encode(withTimestamps(render(cleaned), media, manifest));
  const placeholders = raw.flatMap((id, index) => (id === tokens.image || id === tokens.video ? [index] : []));
  const expected = media.flatMap((item) =>
    Array<number | null>(countBlocks(item, manifest)).fill(item.kind === "image" ? tokens.image : tokens.video),
  );
  if (placeholders.length !== expected.length || placeholders.some((at, index) => raw[at] !== expected[index])) {
    throw new PromptError(
      `the prompt has ${placeholders.length} image or video placeholders for ${media.length} images and videos`,
      { fix: "do not write <|image_pad|>, <|video_pad|> or <imgpad> in a text" },
    );
  }
  const budget = manifest.llm.max_length - reserve - (raw.length - placeholders.length);
  if (budget < media.length) {
    throw new PromptError(
      `a prompt of ${raw.length} tokens and an answer of ${reserve} do not fit the maximum length of ` +
        `${manifest.llm.max_length}`,
      { fix: "shorten it, lower max_new_tokens, or export with a larger --max-length" },
    );
  }
  const selection = new Selection(manifest, prune);
  const bounds = fitPixelBudget(media, manifest, budget, selection);
  return expanded(raw, placeholders, media, bounds, manifest, selection);
}

/** The rendered prompt, with timestamps in its videos if the family uses them. */
function withTimestamps(text: string, media: readonly Media[], manifest: Manifest): string {
  if (!manifest.video.timestamps) return text;
  const videos = media.filter((item) => item.kind === "video");
  const seconds = videos.map((item) => patchTimes(item.times, manifest.image.temporal_patch_size));
  return writeTimes(text, seconds, manifest.image_tokens ?? VISION_BLOCK);
}

/** The number of vision blocks of an item: a video with timestamps has one per temporal patch. */
function countBlocks(item: Media, manifest: Manifest): number {
  const timed = manifest.video.timestamps && item.kind === "video";
  return timed ? Math.ceil(item.frames.length / manifest.image.temporal_patch_size) : 1;
}

/** A pixel bound for every item so that all image tokens together stay within `budget`. */
function fitPixelBudget(media: readonly Media[], manifest: Manifest, budget: number, selection: Selection): number[] {
  const tokens = (bound: number) =>
    media.reduce((sum, item) => sum + selection.tokens(item, item.grid(bound, manifest)), 0);
  const own = media.map((item) => item.bounds[1]);
  if (media.length === 0 || tokens(Math.max(...own)) <= budget) return own;
  const unit = factorOf(manifest.image) ** 2;
  let low = Math.ceil(manifest.image.min_pixels / unit);
  let high = Math.ceil(Math.max(...own) / unit);
  if (tokens(low * unit) > budget) {
    throw new PromptError(
      `${media.length} images or videos do not fit into ${budget} tokens, even at the smallest size`,
      {
        fix: "give fewer of them, or export with a larger --max-length",
      },
    );
  }
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (tokens(middle * unit) <= budget) low = middle;
    else high = middle;
  }
  return own.map((bound) => Math.min(low * unit, bound));
}

/** Expands every placeholder to one token per kept cell of its part of the grid. */
async function expanded(
  raw: readonly number[],
  placeholders: readonly number[],
  media: readonly Media[],
  bounds: readonly number[],
  manifest: Manifest,
  selection: Selection,
): Promise<Prompt> {
  const placed: PlacedMedia[] = [];
  const ids: number[] = [];
  let copied = 0;
  media.forEach((item, index) => {
    const whole = placeMedia(item, bounds[index], manifest, selection);
    let firstRow = 0;
    for (const part of blocksOf(whole, countBlocks(item, manifest))) {
      const placeholder = placeholders[placed.length];
      while (copied < placeholder) ids.push(raw[copied++]);
      copied = placeholder + 1;
      const span = { ...part, start: ids.length };
      const count = spanTokens(span);
      for (let token = 0; token < count; token++) ids.push(raw[placeholder]);
      placed.push({ ...whole, span, firstRow });
      firstRow += count;
    }
  });
  while (copied < raw.length) ids.push(raw[copied++]);
  const spans = manifest.llm.flat_positions ? [] : placed.map((item) => item.span);
  const positions = mropePositions(ids.length, spans);
  const alpha = ntkAlpha(ids.length, manifest.llm.ntk_length);
  const nextPosition = positions.flat().reduce((most, position) => Math.max(most, position), -1) + 1;
  return {
    ids,
    positions,
    placed,
    ntkAlpha: alpha,
    nextPosition,
    answerTokens: 0,
    keys: await prefixKeys(ids, placed, alpha),
  };
}

/** The spans of the `count` vision blocks of one item, which share its temporal patches evenly. */
function blocksOf({ span, kept }: PlacedMedia, count: number): VisionSpan[] {
  const each = span.t / count;
  return Array.from({ length: count }, (_, index) => ({
    ...span,
    t: each,
    kept: kept === null ? null : flatCells(kept.slice(index * each, (index + 1) * each), span.h * span.w),
  }));
}

/** The cells of several temporal patches of `size` cells, numbered through. */
function flatCells(kept: Kept, size: number): number[] {
  return kept.flatMap((cells, index) => cells.map((cell) => index * size + cell));
}

/** Places media at the start of a prompt, resized to at most `bound` pixels per frame. */
export function placeMedia(item: Media, bound: number, manifest: Manifest, selection?: Selection): PlacedMedia {
  const { spatial_merge_size: merge, queries } = manifest.image;
  const grid = item.grid(bound, manifest);
  const [h, w] = queries ? [1, queries] : [grid.h / merge, grid.w / merge];
  const kept = selection?.kept(item, grid) ?? null;
  const span = { start: 0, t: grid.t, h, w, interval: interval(item, manifest), kept: kept && flatCells(kept, h * w) };
  return { media: item, span, grid, firstRow: 0, kept };
}

/** Temporal positions per temporal patch: tokens_per_second · seconds per patch; 1 for images or without a rate. */
function interval(item: Media, manifest: Manifest): number {
  const rate = manifest.video.tokens_per_second;
  if (item.kind === "image" || rate === null) return 1;
  return rate * (manifest.image.temporal_patch_size / item.fps);
}

/** Ids of text tokens, shifted beyond all ids if `alpha` is above 1. */
export function textKeys(ids: readonly number[], alpha: number): number[] {
  return alpha === 1 ? [...ids] : ids.map((id) => id + (alpha - 1) * 2 ** 32);
}

/** Image tokens get negative numbers derived from pixels and temporal interval, text tokens their ids. */
async function prefixKeys(ids: readonly number[], placed: readonly PlacedMedia[], alpha: number): Promise<number[]> {
  const keys = textKeys(ids, alpha);
  for (const item of placed) {
    const digest = await sha256(`${keyOf(item)} ${item.span.interval} ${item.firstRow}`);
    const base = digest.slice(0, 6).reduce((number, byte) => number * 256 + byte, 0);
    const count = spanTokens(item.span);
    for (let token = 0; token < count; token++) keys[item.span.start + token] = -1 - base - token;
  }
  return keys;
}
