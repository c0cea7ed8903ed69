/** Questions that tests of Python write, with paths of PNG files in place of pictures. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { decode } from "fast-png";
import { type Message, type Pixels, pdfPages, type StreamOptions } from "../src/index.js";

export interface Question {
  messages: (Omit<Message, "content"> & { content: Part[] })[];
  options: StreamOptions;
}

interface Part {
  type: string;
  image?: string;
  pdf?: string;
  pages?: string;
  video?: string[];
}

function pixelsOf(path: string): Pixels {
  const { data, width, height, channels } = decode(readFileSync(path));
  assert.ok(channels === 3 && data instanceof Uint8Array);
  return { data, width, height };
}

/** Two pixels per point: pages have the pixels that they are made of. */
const PDF_DPI = 144;

/** The messages with the pixels of their pictures, and the pages of their PDFs. */
export async function messagesOf({ messages }: Pick<Question, "messages">): Promise<Message[]> {
  const loaded = messages.map(async ({ content, ...message }) => {
    return { ...message, content: (await Promise.all(content.map(partsOf))).flat() } as Message;
  });
  return Promise.all(loaded);
}

async function partsOf({ pdf, pages = "1-", ...part }: Part): Promise<object[]> {
  if (pdf !== undefined) {
    const found = await pdfPages(readFileSync(pdf), { pages, dpi: PDF_DPI });
    return found.map((image) => ({ type: "image", image }));
  }
  if (part.image) return [{ ...part, image: pixelsOf(part.image) }];
  return [part.video ? { ...part, video: part.video.map(pixelsOf) } : part];
}
