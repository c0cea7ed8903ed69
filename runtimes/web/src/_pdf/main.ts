/** The program of the worker that reads PDFs, in browsers and in Node.js. */

import { isNode } from "../common/host.js";
import { setPlaces } from "../packages.js";
import { type Port, toFailure } from "../worker/protocol.js";
import type { Answer, Request } from "./process.js";
import { Reader } from "./reader.js";

const reader = new Reader();

async function reply(port: Port, { places, name, args }: Request): Promise<void> {
  setPlaces(places);
  try {
    const value = await (reader[name] as (...args: unknown[]) => Promise<unknown>).apply(reader, args);
    port.postMessage({ value } satisfies Answer);
  } catch (error) {
    port.postMessage({ failure: toFailure(error) });
  }
}

function answer(port: Port): void {
  port.onmessage = ({ data }) => void reply(port, data);
}

/** In browsers requests come through a port: messages of the worker itself are those of pdf.js, which sees a worker. */
async function listen(): Promise<void> {
  if (isNode()) answer((await import("node:worker_threads")).parentPort as unknown as Port);
  else addEventListener("message", ({ ports }) => answer(ports[0]), { once: true });
}

void listen();
