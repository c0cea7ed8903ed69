/** Requests to pdf.js, in a worker of its own: opening, sizes and drawing of one PDF. */

import type { PDFDocumentLoadingTask, PDFDocumentProxy, PDFPageProxy } from "pdfjs-dist";
import { isNode } from "../common/host.js";
import { InstallError } from "../errors.js";
import type { Pixels } from "../media/images.js";
import { importPdfjs, importPdfjsWorker } from "../packages.js";
import { PDF_MAX_IMAGE, type PdfDocument, PdfFailure } from "./limits.js";

type Pdfjs = typeof import("pdfjs-dist");

/** pdf.js with at most one document open. */
export class Reader {
  private opened: { id: string; task: PDFDocumentLoadingTask; document: PDFDocumentProxy } | null = null;

  /** The number of pages. */
  async open(document: PdfDocument): Promise<number> {
    return (await this.document(document)).numPages;
  }

  /** Width and height of a page in points of 1/72 inch, turned as the page is. */
  async size(document: PdfDocument, index: number): Promise<[number, number]> {
    const page = await (await this.document(document)).getPage(index + 1);
    // pdfium, which the Python runtime draws with, leaves the unit out, and has sizes in float32
    const { width, height } = page.getViewport({ scale: 1 / page.userUnit });
    return [Math.fround(width), Math.fround(height)];
  }

  /** Draws a page on white, with `scale` pixels per point. */
  async draw(document: PdfDocument, index: number, scale: number, width: number, height: number): Promise<Pixels> {
    const opened = await this.document(document);
    const page = await opened.getPage(index + 1);
    const factory = opened.canvasFactory as CanvasFactory;
    const made = factory.create(width, height);
    try {
      await rendered(page, made.context, scale, width, height);
      const { data } = made.context.getImageData(0, 0, width, height);
      return { data, width, height, channels: 4 };
    } finally {
      factory.destroy(made);
      page.cleanup();
    }
  }

  private async document(wanted: PdfDocument): Promise<PDFDocumentProxy> {
    if (this.opened?.id === wanted.id) return this.opened.document;
    await this.opened?.task.destroy();
    this.opened = null;
    const task = (await pdfjs()).getDocument({
      data: new Uint8Array(await wanted.content.arrayBuffer()),
      ...(wanted.assets === null ? {} : await foldersIn(wanted.assets)),
      ...(isNode() ? {} : { CanvasFactory, FilterFactory }),
      disableFontFace: true, // glyphs are drawn as paths: a worker has no fonts
      isEvalSupported: false,
      maxImageSize: PDF_MAX_IMAGE,
      useWorkerFetch: !isNode(), // pdf.js's own way asks a document for its address
      verbosity: 0,
    });
    try {
      const document = await task.promise;
      this.opened = { id: wanted.id, task, document };
      return document;
    } catch (error) {
      await task.destroy();
      throw error;
    }
  }
}

/** The page fills the canvas, whose sides are whole pixels, as pdfium does it. */
async function rendered(
  page: PDFPageProxy,
  canvasContext: Context,
  scale: number,
  width: number,
  height: number,
): Promise<void> {
  const viewport = page.getViewport({ scale: scale / page.userUnit });
  const context = canvasContext as unknown as CanvasRenderingContext2D; // pdf.js names the one of pages
  const transform = [width / viewport.width, 0, 0, height / viewport.height, 0, 0];
  await page.render({ canvas: null, canvasContext: context, viewport, transform }).promise;
}

/** Its own worker is not used, as this is one. */
async function pdfjs(): Promise<Pdfjs> {
  try {
    const [library, worker] = await Promise.all([importPdfjs(), importPdfjsWorker()]);
    Object.assign(globalThis, { pdfjsWorker: worker });
    return library;
  } catch (error) {
    throw new InstallError(
      `PDFs need pdfjs-dist, which is not installed, or does not load here: ${(error as Error).message}`,
      {
        fix:
          typeof OffscreenCanvas === "undefined" ? "npm install pdfjs-dist @napi-rs/canvas" : "npm install pdfjs-dist",
      },
      { cause: error },
    );
  }
}

/** In Node.js pdf.js reads files by their paths. */
async function foldersIn(folder: string): Promise<Record<string, string>> {
  const assets = folder.startsWith("file:") ? (await import("node:url")).fileURLToPath(folder) : folder;
  return {
    cMapUrl: `${assets}cmaps/`,
    iccUrl: `${assets}iccs/`,
    standardFontDataUrl: `${assets}standard_fonts/`,
    wasmUrl: `${assets}wasm/`,
  };
}

type Context = OffscreenCanvasRenderingContext2D;

interface Canvas {
  canvas: OffscreenCanvas | null;
  context: Context;
}

/** Canvases of workers, as pdf.js asks for them. */
class CanvasFactory {
  create(width: number, height: number): Canvas {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (context === null) throw new PdfFailure(`there is no canvas of ${width} × ${height} pixels`);
    return { canvas, context };
  }

  reset({ canvas }: Canvas, width: number, height: number): void {
    Object.assign(canvas!, { width, height });
  }

  destroy(made: Canvas): void {
    Object.assign(made.canvas!, { width: 0, height: 0 });
    made.canvas = null;
  }
}

/** No filters of SVG, which workers do not have: transfer functions and masks by luminosity are left out. */
class FilterFactory {
  addFilter = none;
  addHCMFilter = none;
  addAlphaFilter = none;
  addLuminosityFilter = none;
  addHighlightHCMFilter = none;
  destroy(): void {}
}

function none(): string {
  return "none";
}
