/** Splits chat messages into loaded media and messages that are ready for a chat template. */

import { checkFloat, quoted } from "../common/checks.js";
import { hex, sha256 } from "../common/sha256.js";
import { MediaError, PromptError } from "../errors.js";
import type { ImageGeometry, Manifest } from "../manifest.js";
import { type ImageSource, loadImage, type RgbImage } from "../media/images.js";
import { budgetOf, DEFAULT_FPS, evenlySpaced, frameBounds, resizedTo, type Size } from "../media/video.js";
import type { Grid } from "../positions.js";
import { factorOf, resizedFrames, resizedGrid } from "../preprocess.js";
import { parseRule, type Rule, type RuleName } from "../prune/rule.js";
import { MAX_ASPECT_RATIO } from "../resize.js";
import type { TemplateMessage } from "../templates/chat.js";
import { checkCalls } from "../tools.js";

interface Sizes {
  min_pixels?: number;
  max_pixels?: number;
  resized_height?: number;
  resized_width?: number;
  prune?: RuleName;
}

export interface TextPart {
  type: "text";
  text: string;
}

export interface ImagePart extends Sizes {
  type: "image";
  image: ImageSource;
}

/** Frames of one size, `fps` per second (2 unless given), of which at most `max_frames` are taken. */
export interface VideoPart extends Sizes {
  type: "video";
  video: ImageSource[];
  fps?: number;
  max_frames?: number;
  total_pixels?: number;
}

export type Part = TextPart | ImagePart | VideoPart;

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string | Part[];
  [key: string]: unknown;
}

const ROLES = ["system", "user", "assistant", "tool"];
const SIZES = ["min_pixels", "max_pixels", "resized_height", "resized_width", "prune"];
const PART_KEYS: Record<string, string[]> = {
  text: ["type", "text"],
  image: ["type", "image", ...SIZES],
  video: ["type", "video", ...SIZES, "fps", "max_frames", "total_pixels"],
};

/** An image (one frame) or a video: RGB frames of one size. `bounds` are pixels of a resized frame. */
export class Media {
  private held: { key: string; frames: RgbImage[] } | null = null;

  constructor(
    readonly kind: "image" | "video",
    readonly frames: readonly RgbImage[],
    readonly bounds: Size,
    readonly digest: string,
    readonly prune: Rule | null = null,
    readonly fps = DEFAULT_FPS,
    readonly times: readonly number[] = [],
    readonly size: Size | null = null,
  ) {}

  /** The patch grid after resizing to at most `bound` pixels per frame, within the media's own bounds. */
  grid(bound: number, manifest: Manifest): Grid {
    const [low, high] = this.bounds;
    const size = this.size ?? ([this.frames[0].width, this.frames[0].height] as const);
    return resizedGrid(size, this.frames.length, manifest.image, Math.min(high, bound), low);
  }

  /** The frames resized to a grid; those of the latest grid are kept. */
  resized(geometry: ImageGeometry, grid: Grid): RgbImage[] {
    const key = `${grid.t},${grid.h},${grid.w}`;
    if (this.held?.key !== key) this.held = { key, frames: resizedFrames(this.frames, geometry, grid) };
    return this.held.frames;
  }
}

/** Returns messages with bare media placeholders, and the media in order. Throws PromptError for malformed messages. */
export async function collect(
  messages: readonly Message[],
  manifest: Manifest,
): Promise<{ cleaned: TemplateMessage[]; media: Media[] }> {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new PromptError("there are no messages", { fix: 'give [{ role: "user", content: … }]' });
  }
  const media: Media[] = [];
  const cleaned: TemplateMessage[] = [];
  for (const message of messages) {
    if (!ROLES.includes(message?.role))
      throw new PromptError(`the role of a message must be one of ${ROLES.join(", ")}`);
    checkCalls(message.tool_calls);
    const given = message.content ?? (message.tool_calls ? "" : undefined);
    const content = typeof given === "string" ? given : await partsOf(given, media, manifest);
    cleaned.push({ ...message, content });
  }
  if (media.length === 0 && !cleaned.some(({ content }) => hasText(content as string | TextPart[]))) {
    throw new PromptError("the prompt is empty", { fix: "give a text or an image" });
  }
  return { cleaned, media };
}

function hasText(content: string | TextPart[]): boolean {
  return typeof content === "string" ? content.trim() !== "" : content.some((part) => part.text?.trim());
}

async function partsOf(content: unknown, media: Media[], manifest: Manifest): Promise<unknown[]> {
  if (!Array.isArray(content)) throw new PromptError("the content of a message must be a text or a list of parts");
  const parts: unknown[] = [];
  for (const part of content as Part[]) {
    checkKeys(part);
    if (part.type === "text" && typeof part.text === "string") {
      parts.push({ type: "text", text: part.text });
    } else if (part.type === "image") {
      media.push(await imageOf(part, manifest));
      parts.push({ type: "image" });
    } else if (part.type === "video") {
      media.push(await videoOf(part, manifest));
      parts.push({ type: "video" });
    } else {
      throw new PromptError(`cannot use the content part ${quoted(part)}`);
    }
  }
  return parts;
}

function checkKeys(part: Part): void {
  const known = PART_KEYS[part?.type];
  if (known === undefined) throw new PromptError(`cannot use the content part ${quoted(part)}`);
  const unknown = Object.keys(part).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    throw new PromptError(`the content part of type ${part.type} has the unknown key ${quoted(unknown)}`, {
      fix: `its keys are ${known.join(", ")}`,
    });
  }
}

async function imageOf(part: ImagePart, manifest: Manifest): Promise<Media> {
  const image = await loadImage(part.image);
  const budget = budgetOf({ ...part });
  const asked = resizedTo(budget, factorOf(manifest.image));
  checkFixed(part, manifest);
  if (asked === null) checkAspect(image);
  const high = budget.maxPixels ?? Math.max(manifest.image.max_pixels, budget.minPixels ?? 0);
  const low = Math.min(budget.minPixels ?? manifest.image.min_pixels, high);
  const bounds: Size = asked ? [1, asked[0] * asked[1]] : [low, high];
  return new Media(
    "image",
    [image],
    bounds,
    await digest("image", [image]),
    parseRule(part.prune),
    DEFAULT_FPS,
    [],
    asked,
  );
}

async function videoOf(part: VideoPart, manifest: Manifest): Promise<Media> {
  if (manifest.tokens.video === null) {
    throw new PromptError("this model does not accept videos", { fix: "give some of its frames as images" });
  }
  if (!Array.isArray(part.video) || part.video.length === 0) {
    throw new PromptError("a video must be a list of frames", { fix: "decode the file, and give its frames" });
  }
  checkFixed(part, manifest);
  const rate = checkFloat("fps", part.fps ?? DEFAULT_FPS, 0.01, 1000);
  const total = part.video.length;
  const chosen = evenlySpaced(total, Math.min(total, part.max_frames ?? total));
  const frames = await Promise.all(chosen.map((index) => loadImage(part.video[index])));
  if (frames.some(({ width, height }) => width !== frames[0].width || height !== frames[0].height)) {
    throw new MediaError("the frames of the video differ in size", { fix: "resize them to one size" });
  }
  const budget = budgetOf({ ...part });
  const side = factorOf(manifest.image);
  const asked = resizedTo(budget, side);
  const bounds: Size = asked
    ? [1, asked[0] * asked[1]]
    : frameBounds(budget, frames.length, side, manifest.llm.max_length);
  const times = chosen.map((index) => index / rate);
  const fps = (rate * chosen.length) / total;
  return new Media("video", frames, bounds, await digest("video", frames), parseRule(part.prune), fps, times, asked);
}

function checkFixed(part: Sizes, manifest: Manifest): void {
  const side = manifest.image.square;
  if (side && SIZES.some((key) => key !== "prune" && key in part)) {
    throw new PromptError(`this model resizes every image to ${side} × ${side} pixels`);
  }
}

function checkAspect({ width, height }: RgbImage): void {
  if (Math.max(width, height) > MAX_ASPECT_RATIO * Math.min(width, height)) {
    throw new MediaError(`aspect ratio of ${width} × ${height} is above ${MAX_ASPECT_RATIO}`, { fix: "crop it" });
  }
}

/** A hash of the kind, the size and all pixels. */
async function digest(kind: string, frames: readonly RgbImage[]): Promise<string> {
  const { width, height } = frames[0];
  return hex(await sha256(`${kind} ${width} ${height}`, ...frames.map((frame) => frame.data)));
}
