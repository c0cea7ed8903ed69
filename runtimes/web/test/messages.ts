/** Questions that tests of Python write, with paths of PNG files in place of pictures. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { decode } from "fast-png";
import type { Message, Pixels, StreamOptions } from "../src/index.js";

export interface Question {
  messages: (Omit<Message, "content"> & { content: Part[] })[];
  options: StreamOptions;
}

interface Part {
  type: string;
  image?: string;
  video?: string[];
}

function pixelsOf(path: string): Pixels {
  const { data, width, height, channels } = decode(readFileSync(path));
  assert.ok(channels === 3 && data instanceof Uint8Array);
  return { data, width, height };
}

/** The messages with the pixels of their pictures. */
export function messagesOf({ messages }: Pick<Question, "messages">): Message[] {
  return messages.map((message) => ({
    ...message,
    content: message.content.map((part) => {
      if (part.image) return { ...part, image: pixelsOf(part.image) };
      return part.video ? { ...part, video: part.video.map(pixelsOf) } : part;
    }),
  })) as Message[];
}
