/** A bundle's files: in a directory (Node), below a URL, or in a directory handle of a browser. */

import { quoted } from "./common/checks.js";
import { isNode } from "./common/host.js";
import { BundleError } from "./errors.js";
import { type FileEntry, MANIFEST } from "./manifest.js";
import { RemoteFiles, type RemoteOptions } from "./remote/remote_files.js";

export interface BundleFiles {
  /** The path or URL, as errors name it. */
  readonly name: string;
  /** A file's size in bytes, or null if the place does not say it. Throws BundleError if the file is missing. */
  size(name: string): Promise<number | null>;
  read(name: string): Promise<Uint8Array>;
  /** The file's path, where an engine can open it itself. */
  path(name: string): string | null;
  /** Tells which files will be read, and what they must be. */
  expect?(entries: Readonly<Record<string, FileEntry>>): void;
  /** Is called once everything was read. */
  settle?(): Promise<void>;
}

/** A path (Node), a URL that ends the bundle's directory, or a directory handle (browsers). */
export type BundleSource = string | URL | FileSystemDirectoryHandle;

export async function openFiles(source: BundleSource, options: RemoteOptions = {}): Promise<BundleFiles> {
  if (typeof source === "object" && source !== null && "getFileHandle" in source) return new HandleFiles(source);
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new BundleError(`cannot use ${quoted(source)} as a bundle`, {
      fix: "give a path, a URL or a directory handle",
    });
  }
  const text = String(source);
  if (/^https?:/.test(text) || !isNode()) return RemoteFiles.open(text, options);
  const [{ default: fs }, { fileURLToPath }] = await Promise.all([import("node:fs/promises"), import("node:url")]);
  return new LocalFiles(text.startsWith("file:") ? fileURLToPath(text) : text, fs);
}

/** Refuses names that lead out of the bundle. */
export function checkName(name: string): void {
  if (name === "" || /^\/|\\|:|\0/.test(name) || name.split("/").includes("..")) {
    throw new BundleError(`names a file outside the bundle: ${JSON.stringify(name).slice(0, 200)}`);
  }
}

class LocalFiles implements BundleFiles {
  constructor(
    readonly name: string,
    private readonly fs: typeof import("node:fs/promises"),
  ) {}

  path(name: string): string {
    return `${this.name.replace(/\/+$/, "")}/${name}`;
  }

  async size(name: string): Promise<number> {
    return (await this.try(name, (path) => this.fs.stat(path))).size;
  }

  async read(name: string): Promise<Uint8Array> {
    return this.try(name, (path) => this.fs.readFile(path));
  }

  private async try<T>(name: string, action: (path: string) => Promise<T>): Promise<T> {
    try {
      return await action(this.path(name));
    } catch (error) {
      throw missing(this.name, name, error);
    }
  }
}

class HandleFiles implements BundleFiles {
  readonly name: string;

  constructor(private readonly handle: FileSystemDirectoryHandle) {
    this.name = handle.name;
  }

  path(): null {
    return null;
  }

  async size(name: string): Promise<number> {
    return (await this.file(name)).size;
  }

  async read(name: string): Promise<Uint8Array> {
    return new Uint8Array(await (await this.file(name)).arrayBuffer());
  }

  private async file(name: string): Promise<File> {
    try {
      return await (await this.handle.getFileHandle(name)).getFile();
    } catch (error) {
      throw missing(this.name, name, error);
    }
  }
}

function missing(directory: string, name: string, cause: unknown): BundleError {
  const where = `${directory.replace(/\/+$/, "")}/${name}`;
  return name === MANIFEST
    ? new BundleError("is missing: this is not a bundle, or copying was interrupted", { where, fix: EXPORT }, { cause })
    : new BundleError("is missing from the bundle, or cannot be read", { where, fix: "copy it again" }, { cause });
}

const EXPORT = "`qvl-export export` makes bundles of checkpoints";
