/** Images as RGB bytes: from decoded pixels anywhere, from files and bitmaps where there is a canvas. */

import { quoted } from "../common/checks.js";
import { MediaError } from "../errors.js";
import { drawPage, isPdfPage, type PdfPage } from "../pdf.js";

export const MAX_IMAGE_PIXELS = 2 ** 27;

/** RGB bytes in row-major order. */
export interface RgbImage {
  data: Uint8Array;
  width: number;
  height: number;
}

/** Decoded pixels, upright: `channels` is 1 (gray), 3 (RGB) or 4 (RGBA); by default what the number of bytes says. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
  channels?: 1 | 3 | 4;
}

/** Where there is an `OffscreenCanvas`, as in browsers, also a file or an `ImageBitmap`. */
export type ImageSource = Pixels | PdfPage | Blob | ImageBitmap;

/** Returns an image as RGB; transparency is laid on white. Throws MediaError for what is not an image. */
export async function loadImage(source: ImageSource): Promise<RgbImage> {
  if (isPixels(source)) return rgb(source);
  if (isPdfPage(source)) return rgb(await drawPage(source));
  if (typeof OffscreenCanvas === "undefined") {
    throw new MediaError("images in files cannot be decoded here", {
      fix: "give decoded pixels: { data, width, height }",
    });
  }
  return rgb(await drawn(source as Blob | ImageBitmap));
}

function isPixels(source: unknown): source is Pixels {
  return typeof source === "object" && source !== null && "data" in source;
}

/** Decodes by a canvas, upright and without conversion of colors. */
async function drawn(source: Blob | ImageBitmap): Promise<Pixels> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(source, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch (error) {
    const fix = "give a File, a Blob, an ImageBitmap, or decoded pixels: { data, width, height }";
    throw new MediaError("is not an image that this browser decodes", { where: nameOf(source), fix }, { cause: error });
  }
  checkSize(bitmap.width, bitmap.height);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  if (context === null) throw new MediaError("there is no canvas to decode images with");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function nameOf(source: unknown): string {
  return typeof source === "object" && source !== null && "name" in source ? String(source.name) : "image";
}

function rgb(source: Pixels): RgbImage {
  const { data, width, height } = source;
  if (!(ArrayBuffer.isView(data) && (data as Uint8Array).BYTES_PER_ELEMENT === 1)) {
    throw new MediaError("its data are not bytes", { where: "image", fix: "give a Uint8Array: 8 bits per channel" });
  }
  checkSize(width, height);
  const channels = source.channels ?? data.length / (width * height);
  if (![1, 3, 4].includes(channels) || data.length !== width * height * channels) {
    throw new MediaError(`has ${data.length} bytes for ${quoted([width, height])} pixels`, {
      where: "image",
      fix: "give 1 (gray), 3 (RGB) or 4 (RGBA) bytes per pixel",
    });
  }
  if (channels === 3) return { data: new Uint8Array(data), width, height };
  if (channels === 1)
    return { data: Uint8Array.from({ length: 3 * data.length }, (_, at) => data[Math.floor(at / 3)]), width, height };
  return { data: onWhite(data), width, height };
}

function checkSize(width: number, height: number): void {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw new MediaError(`has ${width} × ${height} pixels`, { where: "image", fix: "give its width and height" });
  }
  if (width * height > MAX_IMAGE_PIXELS) {
    throw new MediaError(`has ${width} × ${height} pixels; more than ${MAX_IMAGE_PIXELS} are refused`, {
      where: "image",
      fix: "scale it down",
    });
  }
}

/** RGBA → RGB on white, with the rounding of Pillow's `paste`. */
function onWhite(rgba: Uint8Array | Uint8ClampedArray): Uint8Array {
  const result = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const sum = rgba[from + channel] * alpha + 255 * (255 - alpha) + 128;
      result[to++] = ((sum >> 8) + sum) >> 8;
    }
  }
  return result;
}
