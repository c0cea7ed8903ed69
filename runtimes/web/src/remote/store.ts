/** Files of bundles that were fetched, kept by the browser: in its private file system, else in its cache of responses. */

import { hex, sha256 } from "../common/sha256.js";

/** Takes a file in pieces; it is there once `close` returns, and never in part. */
export interface FileWriter {
  write(piece: Uint8Array<ArrayBuffer>): Promise<void>;
  close(): Promise<void>;
  abort(): Promise<void>;
}

/** The kept files of one bundle. */
export interface Store {
  read(name: string): Promise<Blob | null>;
  write(name: string): Promise<FileWriter>;
  names(): Promise<string[]>;
  remove(name: string): Promise<void>;
}

const FOLDER = "qvl-runtime";
/** Requests in a cache need an address; nobody fetches it. */
const ADDRESS = "https://qvl-runtime.invalid/";

/** Returns what is kept of the bundle below a URL, or null where nothing can be kept, as in Node. */
export async function openStore(url: string): Promise<Store | null> {
  if (hasFileSystem()) {
    try {
      const folder = await rootFolder();
      return new FolderStore(await folder.getDirectoryHandle(await folderName(url), { create: true }));
    } catch {
      // Private windows of some browsers have the API and refuse its use.
    }
  }
  try {
    return typeof caches === "undefined" ? null : new CacheStore(await caches.open(cacheName(url)));
  } catch {
    return null;
  }
}

/** Removes what is kept of the bundle below a URL. */
export async function removeStore(url: string): Promise<void> {
  if (hasFileSystem()) {
    try {
      await (await rootFolder()).removeEntry(await folderName(url), { recursive: true });
    } catch (error) {
      if ((error as Error).name !== "NotFoundError" && (error as Error).name !== "SecurityError") throw error;
    }
  }
  if (typeof caches !== "undefined") await caches.delete(cacheName(url));
}

function hasFileSystem(): boolean {
  return (
    typeof navigator !== "undefined" &&
    typeof navigator.storage?.getDirectory === "function" &&
    typeof FileSystemFileHandle !== "undefined" &&
    "createWritable" in FileSystemFileHandle.prototype
  );
}

async function rootFolder(): Promise<FileSystemDirectoryHandle> {
  return (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
}

async function folderName(url: string): Promise<string> {
  return hex(await sha256(url));
}

function cacheName(url: string): string {
  return `${FOLDER} ${url}`;
}

class FolderStore implements Store {
  constructor(private readonly folder: FileSystemDirectoryHandle) {}

  async read(name: string): Promise<Blob | null> {
    try {
      return await (await this.folder.getFileHandle(name)).getFile();
    } catch (error) {
      if ((error as Error).name === "NotFoundError") return null;
      throw error;
    }
  }

  async write(name: string): Promise<FileWriter> {
    const writer = await (await this.folder.getFileHandle(name, { create: true })).createWritable();
    return {
      write: (piece) => writer.write(piece),
      close: () => writer.close(),
      abort: async () => {
        await writer.abort();
        await this.remove(name); // it is there from the beginning, and empty
      },
    };
  }

  async names(): Promise<string[]> {
    const names: string[] = [];
    for await (const name of this.folder.keys()) names.push(name);
    return names;
  }

  async remove(name: string): Promise<void> {
    await this.folder.removeEntry(name);
  }
}

class CacheStore implements Store {
  constructor(private readonly cache: Cache) {}

  async read(name: string): Promise<Blob | null> {
    return (await (await this.cache.match(ADDRESS + name))?.blob()) ?? null;
  }

  async write(name: string): Promise<FileWriter> {
    const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>();
    const writer = writable.getWriter();
    const put = this.cache.put(ADDRESS + name, new Response(readable));
    put.catch((error) => writer.abort(error).catch(() => {})); // `write` then fails, or `close` does
    return {
      write: (piece) => writer.write(piece),
      close: async () => {
        await writer.close();
        await put;
      },
      abort: async () => {
        await writer.abort();
        await put.catch(() => {});
      },
    };
  }

  async names(): Promise<string[]> {
    return (await this.cache.keys()).map((request) => request.url.slice(ADDRESS.length));
  }

  async remove(name: string): Promise<void> {
    await this.cache.delete(ADDRESS + name);
  }
}
