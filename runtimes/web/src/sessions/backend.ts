/** Where a bundle's graphs run. */

import { quoted } from "../common/checks.js";
import { isNode } from "../common/host.js";
import { InstallError, PromptError } from "../errors.js";
import type { Manifest } from "../manifest.js";
import { checkWebGpu, WEBGPU_TARGET } from "./webgpu.js";

/** The library of the operating system (Node), WebAssembly, or a GPU. */
export type Backend = "node" | "wasm" | "webgpu";

const BACKENDS: unknown[] = ["node", "wasm", "webgpu"] satisfies Backend[];

/** Throws PromptError for what is no backend, and InstallError for that of Node.js elsewhere. */
export function checkBackend(asked: unknown): void {
  if (asked !== undefined && !BACKENDS.includes(asked)) {
    throw new PromptError(`backend must be ${BACKENDS.join(", ")}, got ${quoted(asked)}`);
  }
  if (asked === "node" && !isNode()) {
    throw new InstallError("the backend node runs in Node.js", { fix: 'use "wasm" or "webgpu", or leave it out' });
  }
}

/**
 * Returns the backend that was asked for, or the default.
 *
 * Throws BundleError or InstallError if WebGPU was asked for and cannot run the bundle. By default WebAssembly takes its
 * place, with a warning in the console.
 */
export async function chosenBackend(asked: Backend | undefined, manifest: Manifest, where: string): Promise<Backend> {
  if (asked === undefined && (isNode() || manifest.target !== WEBGPU_TARGET)) return isNode() ? "node" : "wasm";
  if (asked !== undefined && asked !== "webgpu") return asked;
  try {
    await checkWebGpu(manifest, where);
    return "webgpu";
  } catch (error) {
    if (asked !== undefined || !(error instanceof InstallError)) throw error;
    console.warn(`${error.what}: WebAssembly computes instead, which is slow`);
    return "wasm";
  }
}
