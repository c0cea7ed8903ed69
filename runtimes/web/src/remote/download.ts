/** Receives a file: bytes are hashed and kept as they arrive, and the whole is checked by the manifest. */

import { hex } from "../common/sha256.js";
import { BundleError } from "../errors.js";
import type { FileEntry } from "../manifest.js";
import { importHashes } from "../packages.js";
import type { FileWriter } from "./store.js";

/** Returns the body of a response; throws BundleError if the connection ends, or if size or hash are others. */
export async function receive(
  response: Response,
  entry: FileEntry,
  keep: FileWriter | null,
  report: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const data = await received(response, entry, keep, report);
    await keep?.close();
    return data;
  } catch (error) {
    await keep?.abort().catch(() => {}); // the first error says more
    throw error;
  }
}

async function received(
  response: Response,
  { size, sha256 }: FileEntry,
  keep: FileWriter | null,
  report: (bytes: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const { sha256: hashing } = await importHashes();
  const hash = hashing.create();
  const data = new Uint8Array(size);
  const where = response.url;
  let count = 0;
  for await (const piece of piecesOf(response, () => `${count} of ${size} bytes`)) {
    if (count + piece.length > size) {
      throw new BundleError(`is changed: more than the ${size} bytes that the manifest says`, { where, fix: COPY });
    }
    data.set(piece, count);
    count += piece.length;
    hash.update(piece);
    await keep?.write(piece);
    report(count);
  }
  if (count < size) {
    throw new BundleError(`is truncated: ${count} bytes, the manifest says ${size}`, { where, fix: COPY });
  }
  const found = hex(hash.digest());
  if (found !== sha256) {
    throw new BundleError(`is damaged: its SHA-256 is ${found}, the manifest says ${sha256}`, { where, fix: COPY });
  }
  return data;
}

const COPY = "copy the bundle to the server again";

async function* piecesOf(response: Response, soFar: () => string): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true };
      if (done || value === undefined) return;
      yield value;
    }
  } catch (error) {
    const advice = { where: response.url, fix: "load the bundle again" };
    throw new BundleError(`the connection ended after ${soFar()}`, advice, { cause: error });
  } finally {
    await reader?.cancel().catch(() => {}); // what is left of a file that is refused
  }
}
