/** Reads a bundle's manifest strictly, and checks what this runtime needs of it. */

import schema from "./bundle.schema.json" with { type: "json" };
import { BundleError } from "./errors.js";
import { type BundleFiles, checkName } from "./files.js";
import { cacheSpecs, dataFiles, MANIFEST, type Manifest, SCHEMA_VERSION } from "./manifest.js";
import { decode, type Schema, SchemaError } from "./schema.js";

export const TARGETS = ["cpu", "portable", "web"];
const TEXT_FILES = ["tokenizer.json", "chat_template.jinja"];

/** Returns the manifest; throws BundleError if it is damaged, if files are missing, or if this runtime cannot run it. */
export async function readManifest(files: BundleFiles): Promise<Manifest> {
  const where = `${files.name}/${MANIFEST}`;
  const manifest = parse(new TextDecoder().decode(await files.read(MANIFEST)), where);
  const used = filesRead(manifest);
  for (const name of used) {
    if (!Object.hasOwn(manifest.files, name)) {
      throw new BundleError(`${name} is used but not listed under files`, { where, fix: "export again" });
    }
  }
  refuse(manifest, where);
  files.expect?.(Object.fromEntries(used.map((name) => [name, manifest.files[name]])));
  await Promise.all(Object.keys(manifest.files).map((name) => checkSize(files, name, manifest.files[name].size)));
  return manifest;
}

/** The files that this runtime reads. */
function filesRead(manifest: Manifest): string[] {
  return [...TEXT_FILES, ...graphFiles(manifest)];
}

/** The files of the graphs; two graphs may share one. */
export function graphFiles(manifest: Manifest): string[] {
  const names = Object.values(manifest.graphs).flatMap((graph) => [graph.model, ...dataFiles(manifest, graph)]);
  return [...new Set(names)];
}

/** Returns the manifest that a text holds; throws BundleError. */
export function parse(text: string, where: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const page = text.trimStart().startsWith("<"); // as servers of single-page apps send for what they do not have
    const what = page ? "is missing: the server sent a web page" : "is damaged: it is not JSON";
    const fix = page ? "give the address of the bundle's directory" : "copy it again";
    throw new BundleError(what, { where, fix }, { cause: error });
  }
  const version = (value as { schema_version?: unknown } | null)?.schema_version;
  if (typeof version === "number" && version > SCHEMA_VERSION) {
    throw new BundleError(`has schema version ${version}, this runtime reads up to ${SCHEMA_VERSION}`, {
      where,
      fix: "install the qvl-runtime that matches the qvl-export that wrote it",
    });
  }
  try {
    return decode(value, schema as unknown as Schema) as Manifest;
  } catch (error) {
    if (!(error instanceof SchemaError)) throw error;
    throw new BundleError(
      `is damaged: ${error.message}`,
      { where, fix: "export again or copy it again" },
      { cause: error },
    );
  }
}

/** Throws BundleError for what this runtime does not run. */
function refuse(manifest: Manifest, where: string): void {
  if (!TARGETS.includes(manifest.target)) {
    throw new BundleError(`is for target ${manifest.target}; this runtime has ${TARGETS.join(", ")}`, {
      where,
      fix: "export for one of these",
    });
  }
  for (const name of ["vision", "llm"]) {
    if (!Object.hasOwn(manifest.graphs, name))
      throw new BundleError(`has no graph ${name}`, { where, fix: "export again" });
  }
  if (cacheSpecs(manifest).some((spec) => spec.kind === "recurrent")) {
    throw new BundleError(`${manifest.family} has linear attention, which this runtime does not run`, {
      where,
      fix: "use the runtime for Python",
    });
  }
}

async function checkSize(files: BundleFiles, name: string, size: number): Promise<void> {
  checkName(name);
  const found = await files.size(name);
  if (found !== null && found !== size) {
    const state = found < size ? "truncated" : "changed";
    throw new BundleError(`is ${state}: ${found} bytes, the manifest says ${size}`, {
      where: `${files.name}/${name}`,
      fix: "copy it again",
    });
  }
}
