/** PDF files: their pages, drawn on demand by pdf.js (the package `pdfjs-dist`). */

import { PDF_LIMITS, type PdfDocument, PdfFailure, type PdfLimits } from "./_pdf/limits.js";
import { pdfProcess } from "./_pdf/process.js";
import { range } from "./common/arrays.js";
import { checkFloat, checkInt, checkNames, quoted } from "./common/checks.js";
import { MediaError } from "./errors.js";
import type { Pixels } from "./media/images.js";
import { pdfjsFolder } from "./packages.js";

/** Maximum pages of one PDF in a prompt. */
const MAX_PAGES = 64;
/** Maximum pixels of all pages in a prompt, which are in memory at the same time: 123 A4 pages at 150 dpi. */
const MAX_PAGES_PIXELS = 2 ** 28;
const PDF_DPI = 150;
/** A page is drawn with at most this many pixels, whatever size it claims. */
const PDF_MAX_PIXELS = 2 ** 25;
/** Larger files are rejected: 512 MiB. */
const PDF_MAX_BYTES = 2 ** 29;
/** Documents with more pages are rejected: a damaged one may claim a million. */
const PDF_MAX_PAGES = 100_000;
/** The names of `PdfFileOptions`. */
const FILE_NAMES = ["limits", "name", "assets"];
const WHOLE = "is the file whole, and without a password?";
const RANGE = /^\s*(\d{1,9})\s*(-\s*(\d{1,9})?\s*)?$/;

export interface PdfFileOptions {
  limits?: Partial<PdfLimits>;
  /** The file's name in errors; by default that of a `File`. */
  name?: string;
  /**
   * Where the folders `cmaps`, `iccs`, `standard_fonts` and `wasm` of pdfjs-dist are. It is known in Node.js, and in pages
   * whose import map names the package; after a bundler it has to be said.
   */
  assets?: string | URL;
}

export interface PdfOptions extends PdfFileOptions {
  /** Such as "1-3,7", counted from one; by default all. */
  pages?: string;
  /** 150 by default. */
  dpi?: number;
}

/** A page as an image of a part. It is data without pixels: the page is drawn where the model computes. */
export interface PdfPage {
  readonly pdf: PdfDocument;
  /** Counted from zero. */
  readonly index: number;
  readonly dpi: number;
  readonly limits: PdfLimits;
  /** In pixels, when it is drawn. */
  readonly width: number;
  readonly height: number;
}

/** An open PDF; pages count from zero here, and from one in errors. */
export class Pdf {
  private constructor(
    /** The number of pages. */
    readonly length: number,
    private readonly pdf: PdfDocument,
    private readonly limits: PdfLimits,
  ) {}

  /** Throws MediaError for what is no PDF, or exceeds the limits; InstallError without pdfjs-dist. */
  static async open(file: Blob | Uint8Array<ArrayBuffer>, options: PdfFileOptions = {}): Promise<Pdf> {
    checkNames(options, FILE_NAMES);
    const limits = limitsOf(options.limits);
    const pdf = documentOf(file, options);
    const { where } = pdf;
    const count = await naming(where, "cannot be read as a PDF", () => pdfProcess.ask(limits, "open", pdf), WHOLE);
    if (count > PDF_MAX_PAGES) {
      throw new MediaError(`has ${count} pages, more than ${PDF_MAX_PAGES}`, { where, fix: "split it" });
    }
    return new Pdf(count, pdf, limits);
  }

  /** A page as an image for messages. */
  async page(index: number, dpi = PDF_DPI): Promise<PdfPage> {
    const { pdf, limits, length } = this;
    if (!(Number.isInteger(index) && index >= 0 && index < length)) {
      throw new MediaError(`there is no page(${quoted(index)})`, { where: pdf.where, fix: `give 0 to ${length - 1}` });
    }
    const [width, height] = (await scaledPage(pdf, index, checkInt("dpi", dpi, 1), limits)).size;
    return { pdf, index, dpi, limits, width, height };
  }
}

/** Returns pages of a PDF as images for messages. Throws what `Pdf.open` throws. */
export async function pdfPages(file: Blob | Uint8Array<ArrayBuffer>, options: PdfOptions = {}): Promise<PdfPage[]> {
  checkNames(options, [...FILE_NAMES, "pages", "dpi"]);
  const { pages: asked = null, dpi, ...opening } = options;
  const where = nameOf(file, opening);
  const pdf = await Pdf.open(file, opening);
  const chosen = parsePages(asked, pdf.length, where);
  if (chosen.length > MAX_PAGES) {
    const problem = `${chosen.length} pages, at most ${MAX_PAGES} fit a prompt`;
    throw new MediaError(problem, { where, fix: 'choose some: pages: "1-3,7"' });
  }
  const pages: PdfPage[] = [];
  for (const index of chosen) pages.push(await pdf.page(index, dpi));
  const pixels = pages.reduce((sum, { width, height }) => sum + width * height, 0);
  if (pixels > MAX_PAGES_PIXELS) {
    const problem = `${pages.length} pages of ${pixels} pixels, at most ${MAX_PAGES_PIXELS} fit into memory`;
    throw new MediaError(problem, { where, fix: "choose fewer pages, or a lower dpi" });
  }
  return pages;
}

/** Draws a page, such as for showing it; models draw those of messages themselves. */
export async function drawPage({ pdf, index, dpi, limits }: PdfPage): Promise<Pixels> {
  const { scale, size } = await scaledPage(pdf, index, dpi, limits); // not those of the page, which anybody could have made
  const [width, height] = size;
  const draw = () => pdfProcess.ask(limits, "draw", pdf, index, scale, width, height);
  return naming(pdf.where, `page ${index + 1} cannot be drawn`, draw);
}

export function isPdfPage(source: unknown): source is PdfPage {
  const { pdf, limits } = (source ?? {}) as Partial<PdfPage>;
  return pdf?.content instanceof Blob && typeof limits === "object";
}

/** Returns zero-based indices of "1-3,7-" in a document of `count` pages; throws MediaError for invalid ranges. */
export function parsePages(pages: string | null, count: number, where: string): number[] {
  const ranges = pages === null ? ["1-"] : pages.split(",");
  return ranges.flatMap((part) => {
    const match = RANGE.exec(part);
    if (match === null) {
      throw new MediaError(`pages ${quoted(pages)} must be numbers and ranges`, { where, fix: 'write "1-3,7"' });
    }
    const start = Number(match[1]);
    const end = match[2] === undefined ? start : Number(match[3] ?? count);
    if (start === 0) throw new MediaError("there is no page 0", { where, fix: "pages count from 1" });
    if (start > end && match[3] !== undefined) throw new MediaError(`page range ${part.trim()} is reversed`, { where });
    if (start > end || end > count) throw new MediaError(`has ${count} pages, got page ${part.trim()}`, { where });
    return range(start - 1, end);
  });
}

/** Pixels per point for a page of `width` × `height` points, and its size in pixels. */
export function scaled(width: number, height: number, dpi: number): { scale: number; size: [number, number] } {
  // a side of less than a pixel becomes one
  const scale = Math.min(
    dpi / 72,
    (PDF_MAX_PIXELS / (width * height)) ** 0.5,
    PDF_MAX_PIXELS / Math.max(width, height),
  );
  return { scale, size: [Math.ceil(width * scale), Math.ceil(height * scale)] };
}

async function scaledPage(pdf: PdfDocument, index: number, dpi: number, limits: PdfLimits) {
  return naming(pdf.where, `page ${index + 1} has no size`, async () => {
    const [width, height] = await pdfProcess.ask(limits, "size", pdf, index);
    if (!(width > 0 && height > 0 && width < Number.POSITIVE_INFINITY && height < Number.POSITIVE_INFINITY)) {
      throw new PdfFailure(`${width} × ${height} points`);
    }
    return scaled(width, height, dpi);
  });
}

function limitsOf(given: Partial<PdfLimits> = {}): PdfLimits {
  const { memory, seconds } = { ...PDF_LIMITS, ...given };
  checkFloat("limits.memory", memory, 0, Number.POSITIVE_INFINITY, true);
  checkFloat("limits.seconds", seconds, 0, Number.POSITIVE_INFINITY, true);
  return { memory, seconds };
}

function nameOf(file: Blob | Uint8Array, { name }: PdfFileOptions): string {
  return name ?? (file as Partial<File>)?.name ?? "PDF";
}

function documentOf(file: Blob | Uint8Array<ArrayBuffer>, options: PdfFileOptions): PdfDocument {
  if (!(file instanceof Blob || file instanceof Uint8Array)) {
    throw new MediaError(`cannot use ${quoted(file)} as a PDF`, { fix: "give a File, a Blob, or the bytes of one" });
  }
  const content = file instanceof Blob ? file : new Blob([file]);
  const where = nameOf(file, options);
  if (content.size > PDF_MAX_BYTES) {
    throw new MediaError(`has more than ${PDF_MAX_BYTES / 2 ** 20} MiB`, { where, fix: "split it" });
  }
  const base = typeof document === "undefined" ? undefined : document.baseURI;
  const { assets } = options;
  const folder = assets === undefined ? pdfjsFolder() : new URL(`${String(assets).replace(/\/*$/, "")}/`, base).href;
  return { content, id: crypto.randomUUID(), where, assets: folder };
}

/** Converts failures into MediaErrors that name the file and say `what`; `fix` is for faults of the file. */
async function naming<T>(where: string, what: string, action: () => Promise<T>, fix = ""): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof PdfFailure)) throw error;
    throw new MediaError(`${what}: ${error.message}`, { where, fix: error.limit ? "" : fix }, { cause: error });
  }
}
