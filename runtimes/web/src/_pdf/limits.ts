/** Limits of reading a PDF, its content, and its errors. */

/** Limits of one request: opening a document, or drawing a page. */
export interface PdfLimits {
  /** What it may add to the memory of the program in bytes, in Node.js; browsers do not tell. 1.5 GiB by default. */
  readonly memory: number;
  /** 30 by default. */
  readonly seconds: number;
}

export const PDF_LIMITS: PdfLimits = { memory: 3 * 2 ** 29, seconds: 30 };
/** Images with more pixels are left out of a page. */
export const PDF_MAX_IMAGE = 2 ** 27;

/** The content of a file, the name by which errors call it, and an id by which workers know it: they keep one open. */
export interface PdfDocument {
  readonly content: Blob;
  readonly id: string;
  readonly where: string;
  /** Where the folders `cmaps`, `iccs`, `standard_fonts` and `wasm` of pdfjs-dist are; null if that is not known. */
  readonly assets: string | null;
}

/** pdf.js could not complete a request; the message says why. */
export class PdfFailure extends Error {
  override readonly name = "PdfFailure";

  /** `limit` says that a limit was exceeded, which is no fault of the file. */
  constructor(
    message: string,
    readonly limit = false,
  ) {
    super(message);
  }
}
