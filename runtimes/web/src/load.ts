/** `load`: a bundle as a model, in a worker of its own where there is a page that must not freeze. */

import { checkNames } from "./common/checks.js";
import { InstallError } from "./errors.js";
import type { BundleSource } from "./files.js";
import { type LoadOptions, loadHere, type Model } from "./model.js";
import { loadInWorker } from "./worker/proxy.js";

/** The names of `LoadOptions`. */
const NAMES = ["threads", "backend", "prune", "worker", "progress", "keep", "signal"];

/**
 * Opens a bundle: a path (Node), a URL, or a directory handle (browsers).
 *
 * Throws BundleError if it is missing, damaged, of a newer schema version, or one that this runtime does not run.
 */
export async function load(bundle: BundleSource, options: LoadOptions = {}): Promise<Model> {
  checkNames(options, NAMES);
  if (!(options.worker ?? typeof document !== "undefined")) return loadHere(bundle, options);
  if (typeof Worker === "undefined") throw new InstallError("there are no workers here", { fix: "leave worker out" });
  return loadInWorker(bundle, options);
}
