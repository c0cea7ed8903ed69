/** The files of a bundle below a URL: fetched once, and kept by the browser for the next time. */

import { quoted } from "../common/checks.js";
import { BundleError } from "../errors.js";
import type { BundleFiles } from "../files.js";
import { type FileEntry, MANIFEST } from "../manifest.js";
import { receive } from "./download.js";
import { type LoadProgress, ProgressCount } from "./progress.js";
import { type FileWriter, openStore, removeStore, type Store } from "./store.js";

export interface RemoteOptions {
  /** Called as bytes arrive. */
  progress?: (progress: LoadProgress) => void;
  /** Whether files are kept in the browser (default), where an earlier load may have kept them. */
  keep?: boolean;
  /** Stops loading, which then throws the signal's reason; files that had arrived whole stay kept. */
  signal?: AbortSignal;
}

/** There was no answer. */
class UnreachableError extends BundleError {
  constructor(where: string, cause: unknown) {
    const fix = "is there a network, and may this page read from there (CORS)?";
    super("cannot be fetched", { where, fix }, { cause });
  }
}

export class RemoteFiles implements BundleFiles {
  private readonly count: ProgressCount;
  private entries: Record<string, FileEntry> = {};
  private manifest: Uint8Array<ArrayBuffer> | null = null;

  private constructor(
    readonly name: string,
    private store: Store | null,
    progress?: (progress: LoadProgress) => void,
    private readonly signal?: AbortSignal,
  ) {
    this.count = new ProgressCount(progress);
  }

  static async open(url: string, { progress, keep = true, signal }: RemoteOptions): Promise<RemoteFiles> {
    const name = addressOf(url);
    return new RemoteFiles(name, keep ? await openStore(name) : null, progress, signal);
  }

  path(): null {
    return null;
  }

  /** Is not asked for: a file that is missing or has another size is found when it is read. */
  async size(): Promise<null> {
    return null;
  }

  expect(entries: Readonly<Record<string, FileEntry>>): void {
    this.entries = entries;
    this.count.expect(Object.values(entries).map(({ size }) => size));
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    this.signal?.throwIfAborted();
    if (name === MANIFEST) return this.readManifest();
    const entry = this.entries[name];
    const kept = await this.kept(entry.sha256);
    if (kept?.size === entry.size) {
      const data = new Uint8Array(await kept.arrayBuffer());
      this.count.at(name, data.length, "kept");
      return data;
    }
    const response = await this.fetch(name);
    return receive(response, entry, await this.writer(entry.sha256), (bytes) => this.count.at(name, bytes, "network"));
  }

  /** Keeps the manifest, and no files that are not in it. */
  async settle(): Promise<void> {
    const { store, manifest } = this;
    if (store === null || manifest === null) return;
    const used = new Set([MANIFEST, ...Object.values(this.entries).map(({ sha256 }) => sha256)]);
    try {
      for (const name of await store.names()) if (!used.has(name)) await store.remove(name);
      const writer = await store.write(MANIFEST);
      await writer.write(manifest);
      await writer.close();
    } catch (error) {
      this.stopKeeping(error);
    }
  }

  /** The one of the server; the kept one if the server is not reached. */
  private async readManifest(): Promise<Uint8Array<ArrayBuffer>> {
    const response = await this.fetch(MANIFEST).catch(async (error) => {
      const kept = error instanceof UnreachableError ? await this.kept(MANIFEST) : null;
      if (kept === null) throw error;
      return new Response(kept);
    });
    try {
      this.manifest = new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      throw new UnreachableError(`${this.name}/${MANIFEST}`, error);
    }
    return this.manifest;
  }

  private async kept(name: string): Promise<Blob | null> {
    try {
      return (await this.store?.read(name)) ?? null;
    } catch (error) {
      this.stopKeeping(error);
      return null;
    }
  }

  /** Writes to the store; if that fails, as it does on a full disk, the file is read all the same. */
  private async writer(name: string): Promise<FileWriter | null> {
    if (this.store === null) return null;
    try {
      const writer = await this.store.write(name);
      const attempt = async (action: () => Promise<void>) => {
        if (this.store === null) return;
        try {
          await action();
        } catch (error) {
          this.stopKeeping(error);
          await writer.abort().catch(() => {}); // it has failed already
        }
      };
      return {
        write: (piece) => attempt(() => writer.write(piece)),
        close: () => attempt(() => writer.close()),
        abort: () => writer.abort(),
      };
    } catch (error) {
      this.stopKeeping(error);
      return null;
    }
  }

  private stopKeeping(error: unknown): void {
    this.store = null;
    console.warn(`qvl-runtime: the browser does not keep ${this.name}, which will be downloaded again: ${error}`);
  }

  private async fetch(name: string): Promise<Response> {
    const where = `${this.name}/${name}`;
    const cache = name === MANIFEST || this.store === null ? "no-cache" : "no-store";
    let response: Response;
    try {
      response = await fetch(where, { cache, signal: this.signal ?? null });
    } catch (error) {
      throw new UnreachableError(where, error);
    }
    if (!response.ok) {
      const fix =
        name === MANIFEST ? "give the address of the bundle's directory" : "copy the bundle to the server again";
      throw new BundleError(`cannot be fetched: HTTP ${response.status}`, { where, fix });
    }
    return response;
  }
}

/** Removes the files that the browser has kept of the bundle below a URL. */
export async function forget(url: string | URL): Promise<void> {
  await removeStore(addressOf(String(url)));
}

/** The whole address of a bundle's directory, without a slash at its end; relative ones start from the page. */
function addressOf(url: string): string {
  const base = typeof document === "undefined" ? globalThis.location?.href : document.baseURI;
  try {
    return new URL(url, base).href.replace(/\/+$/, "");
  } catch (error) {
    throw new BundleError(`${quoted(url)} is no address`, { fix: "give a URL, such as https://…" }, { cause: error });
  }
}
