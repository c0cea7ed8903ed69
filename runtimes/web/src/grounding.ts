/** Parses boxes and points in answers, from the model's notation to pixels of the original image. */

import { PromptError } from "./errors.js";
import { parseAt } from "./json_prefix.js";
import type { BoxNotation, Manifest } from "./manifest.js";
import type { PlacedInfo } from "./prompts/prompt.js";

export type Size = readonly [number, number];

/** A rectangle from (x1, y1) to (x2, y2), x to the right and y down. */
export interface Box {
  label: string;
  x1: number;
  y1: number;
  x2: number;
  y2: number;
}

export interface Point {
  label: string;
  x: number;
  y: number;
}

export type Region = Box | Point;

/** A label and its 2 (point), 4 (box) or 8 (quadrilateral) numbers, x and y alternating. */
type Found = [label: string, numbers: number[]];

const KEYS = ["bbox_2d", "point_2d"];
const LABELS = ["label", "text_content", "text", "content", "name"];

const MARKED: BoxNotation = { syntax: "marks", unit: "thousandth" };
const THOUSANDTHS: BoxNotation = { syntax: "json", unit: "thousandth" };
/** The notations of bundles that do not have it in their manifest, before schema 10; later families are not added. */
const FAMILIES: Record<string, BoxNotation> = {
  qwen: MARKED,
  qwen2_vl: MARKED,
  qwen2_5_vl: { syntax: "json", unit: "pixel" },
  qwen3_vl: THOUSANDTHS,
  qwen3_vl_moe: THOUSANDTHS,
};

/** Returns the notation of a bundle's answers; throws PromptError if neither manifest nor family says it. */
export function notationOf(manifest: Manifest): BoxNotation {
  const notation = manifest.boxes ?? FAMILIES[manifest.family];
  if (notation === undefined) throw new PromptError(`no box notation is known for family ${manifest.family}`);
  return notation;
}

/** Returns the boxes and points of an answer about an image, in the image's pixels. */
export function regionsOf(answer: string, placed: PlacedInfo, manifest: Manifest): Region[] {
  if (placed === undefined) {
    throw new PromptError("the prompt has no such image", { fix: "give one of (await stream.prompt).placed" });
  }
  const { media, grid } = placed;
  const side = manifest.image.patch_size;
  const { width, height } = media.frames[0];
  return parseRegions(answer, notationOf(manifest), [width, height], [grid.w * side, grid.h * side]);
}

/** Returns the boxes and points of an answer in their order; truncated or malformed boxes are skipped. */
export function parseRegions(text: string, notation: BoxNotation, image: Size, resized: Size): Region[] {
  const reference: Size = notation.unit === "thousandth" ? [1000, 1000] : resized;
  const found = notation.syntax === "marks" ? parseMarked(text) : parseJson(text);
  return found.flatMap(([label, numbers]) => regionOf(label, numbers, image, reference));
}

/** A region scaled and clipped to the image, corners in order; a quadrilateral becomes its bounding box. */
function regionOf(label: string, numbers: number[], image: Size, reference: Size): Region[] {
  const side = (axis: 0 | 1) =>
    numbers.filter((_, index) => index % 2 === axis).map((value) => scaled(value, image[axis], reference[axis]));
  const [xs, ys] = [side(0), side(1)];
  if (numbers.length === 2) return [{ label, x: xs[0], y: ys[0] }];
  if (numbers.length !== 4 && numbers.length !== 8) return [];
  return [{ label, x1: Math.min(...xs), y1: Math.min(...ys), x2: Math.max(...xs), y2: Math.max(...ys) }];
}

function scaled(value: number, side: number, reference: number): number {
  return Math.min(Math.max((value * side) / reference, 0), side);
}

/** Marks and coordinate pairs, one letter per kind. */
const TOKEN =
  /(?<R><ref>|<\|object_ref_start\|>)|(?<r><\/ref>|<\|object_ref_end\|>)|(?<O><(?:box|quad)>|<\|(?:box|quad)_start\|>)|(?<C><\/(?:box|quad)>|<\|(?:box|quad)_end\|>)|(?<P>\(\s*\d{1,6}\s*,\s*\d{1,6}\s*\))/g;
/** A label, a point, or a box; a box whose last pair is truncated (x) is skipped. */
const SENTENCE = /R[^rO]*r?|OPC|O?P(?:,?P)+x?C?/g;

/** Coordinates with the last label before them or, without labels, the text since the last coordinates. */
function parseMarked(text: string): Found[] {
  const { kinds, spans } = tokensOf(text);
  const found: Found[] = [];
  let label: string | null = null;
  let end = 0;
  for (const match of kinds.matchAll(SENTENCE)) {
    const [first, last] = [match.index, match.index + match[0].length];
    if (match[0][0] === "R") {
      const stop = match[0].endsWith("r") ? spans[last - 1][0] : spans[last][0];
      label = text.slice(spans[first][1], stop).trim();
    } else if (!match[0].includes("x")) {
      const own =
        text
          .slice(end, spans[first][0])
          .trim()
          .split(/\r\n|\r|\n/)
          .at(-1) ?? "";
      const pairs = spans.slice(first, last).filter((_, index) => kinds[first + index] === "P");
      const numbers = pairs.flatMap(([from, to]) => (text.slice(from, to).match(/\d+/g) ?? []).map(Number));
      found.push([label ?? own.replace(/^[ ,;:]+|[ ,;:]+$/g, ""), numbers]);
    } else {
      continue;
    }
    end = spans[last - 1][1];
  }
  return found;
}

/** The kinds of the text's tokens and their spans; the last span is the end of the text. */
function tokensOf(text: string): { kinds: string; spans: [number, number][] } {
  let kinds = "";
  const spans: [number, number][] = [];
  let index = 0;
  const add = (kind: string, from: number, to: number) => {
    const between = betweenKind(text.slice(index, from));
    if (between !== "") {
      kinds += between;
      spans.push([index, from]);
    }
    kinds += kind;
    spans.push([from, to]);
    index = to;
  };
  for (const match of text.matchAll(TOKEN)) {
    const kind = Object.entries(match.groups ?? {}).find(([, value]) => value !== undefined)?.[0] ?? "";
    add(kind, match.index, match.index + match[0].length);
  }
  add("", text.length, text.length);
  return { kinds, spans };
}

/** A comma (,), a truncated pair (x), or text (t); whitespace is ignored. */
function betweenKind(text: string): string {
  const trimmed = text.trim();
  if (!trimmed.startsWith(",")) return trimmed === "" ? "" : "t";
  const rest = trimmed.slice(1).trimStart();
  if (rest.startsWith("(")) return "x";
  return rest === "" ? "," : "t";
}

/** After this many objects that do not parse, none is parsed as JSON any more: each failure rescans earlier text. */
const MAX_FAILED = 500;

/** The coordinates of every object: in a list, in a code fence, within prose, or truncated. */
function parseJson(text: string): Found[] {
  const found: Found[] = [];
  let failed = 0;
  let wasted = 0;
  for (let index = text.indexOf("{"); index >= 0; ) {
    let end = index + 1;
    const parsed = failed < MAX_FAILED && wasted <= 4 * text.length ? parseAt(text, index) : { failedAt: text.length };
    if ("failedAt" in parsed) {
      failed++;
      wasted += parsed.failedAt - index;
      const following = text.indexOf("{", end);
      found.push(...parseMalformed(text, index, following < 0 ? text.length : following));
    } else {
      end = parsed.end;
      found.push(...nestedCoordinates(parsed.value, keyBefore(text, index)));
    }
    index = text.indexOf("{", end);
  }
  return found;
}

/** Coordinates of nested objects, in order; the label of an object without one is the key that holds it. */
function nestedCoordinates(value: unknown, name: string): Found[] {
  if (Array.isArray(value)) return value.flatMap((item) => nestedCoordinates(item, name));
  if (typeof value !== "object" || value === null) return [];
  const object = value as Record<string, unknown>;
  const label = LABELS.map((key) => object[key]).find((text) => typeof text === "string") as string | undefined;
  return Object.entries(object).flatMap(([key, item]) =>
    KEYS.includes(key)
      ? coordinates(item).map((numbers): Found => [label ?? name, numbers])
      : nestedCoordinates(item, key),
  );
}

/** The numbers of [x, y, …] or of a list of such lists; each list and number may be given as a text. */
function coordinates(value: unknown): number[][] {
  const lists = Array.isArray(value) && value.length > 0 && value.every(Array.isArray) ? value : [value];
  return lists.map(numbersOf).filter((numbers) => numbers.length > 0);
}

/** The numbers of a list, or of a text of numbers only; empty if any element is not a number. */
function numbersOf(value: unknown): number[] {
  const items =
    typeof value === "string"
      ? value
          .replace(/[[\]()]/g, "")
          .trim()
          .replace(/,+$/, "")
          .trimEnd()
          .split(/\s*,\s*/)
      : value;
  const numbers = Array.isArray(items) ? items.map(numberOf) : [];
  return numbers.every((number) => number !== null) ? numbers : [];
}

function numberOf(value: unknown): number | null {
  let number = value;
  if (typeof value === "string") number = /^[-+]?\d{1,9}(?:\.\d{0,20})?$/.test(value.trim()) ? Number(value) : null;
  return typeof number === "number" && Math.abs(number) < 1e9 ? number : null;
}

/** A string in quotes of either kind, possibly truncated; an apostrophe inside single quotes does not end it. */
const QUOTED = String.raw`(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.|'(?!\s*(?:[,:}\]]|$)))*))`;
const LIST = /["'](?:bbox|point)_2d["']\s*:\s*(\[(?:[^[\]{}]|\[[^[\]{}]*\])*\]|["'][^"'{}]*["'])/g;
const LABEL = new RegExp(`["'](?:${LABELS.join("|")})["']\\s*:\\s*${QUOTED}`);
const LONGEST_KEY = 200;

/** The key that holds the object at `index`, directly or as the first of a list; else an empty text. */
function keyBefore(text: string, index: number): string {
  const before = text
    .slice(Math.max(0, index - LONGEST_KEY), index)
    .trimEnd()
    .replace(/\[$/, "")
    .trimEnd();
  const key = before.endsWith(":") ? before.slice(0, -1).trimEnd() : "";
  if (!/['"]$/.test(key)) return "";
  return key.slice(key.lastIndexOf(key.at(-1)!, key.length - 2) + 1, -1);
}

/** Complete coordinates of an object that is not valid JSON: truncated, extra comma, or Python's quotes. */
function parseMalformed(text: string, index: number, end: number): Found[] {
  const body = text.slice(index, end);
  const lists = body.includes("_2d") ? [...body.matchAll(LIST)].map((match) => match[1]) : [];
  if (lists.length === 0) return [];
  const label = LABEL.exec(body);
  let name = keyBefore(text, index);
  if (label !== null) name = label[1] !== undefined ? unescaped(label[1]) : label[2].replaceAll("\\'", "'");
  return lists.flatMap((list) => {
    const inner = [...list.matchAll(/\[([^[\]]*)\]/g)].map((match) => match[1]);
    const numbers = (inner.length > 0 ? inner : [list]).map((part) => numbersOf(part.replace(/["']/g, "")));
    return numbers.filter((found) => found.length > 0).map((found): Found => [name, found]);
  });
}

/** Decodes a JSON string; returns it unchanged if it is truncated within an escape. */
function unescaped(text: string): string {
  const controls = text.replace(/[\u0000-\u001f]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
  try {
    return JSON.parse(`"${controls}"`);
  } catch {
    return text;
  }
}
