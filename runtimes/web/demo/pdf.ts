/** A PDF that was opened, of which one page at a time is asked about. */

import { drawPage, Pdf, type PdfPage } from "qvl-runtime";
import { byId, messageOf, say } from "./dom.js";

/** Where the build has put fonts and tables of pdf.js. */
const ASSETS = new URL("pdfjs/", document.baseURI);

export interface ShownPage {
  image: PdfPage;
  seen: Blob;
}

/**
 * Shows the first page, and the others as they are chosen, by `show` of a title and of what makes the page; nothing if
 * the file is not the `latest` when it is open.
 */
export async function openPdf(
  file: File,
  latest: () => boolean,
  show: (title: string, make: () => Promise<ShownPage>) => Promise<void>,
): Promise<void> {
  const number = byId<HTMLInputElement>("number");
  say("Opening…");
  try {
    const pdf = await Pdf.open(file, { assets: ASSETS });
    if (!latest()) return;
    const open = () => show(`${file.name}, page ${number.value}`, () => shown(pdf, Number(number.value) - 1));
    number.value = "1";
    number.max = String(pdf.length);
    number.onchange = () => {
      if (number.reportValidity()) void open();
    };
    byId("count").textContent = `of ${pdf.length}`;
    byId("pages").hidden = pdf.length === 1;
    await open();
  } catch (error) {
    if (latest()) say(messageOf(error));
  }
}

async function shown(pdf: Pdf, index: number): Promise<ShownPage> {
  const image = await pdf.page(index);
  const { data, width, height } = await drawPage(image);
  const canvas = new OffscreenCanvas(width, height);
  const pixels = new ImageData(new Uint8ClampedArray(data), width, height);
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
  return { image, seen: await canvas.convertToBlob() };
}
