/** Errors that a user can act on: each says in one line what is wrong, where, and how to fix it. */

export interface Advice {
  /** A file, a URL or a field. */
  where?: string;
  /** What to try. */
  fix?: string;
}

export class QvlError extends Error {
  override readonly name: string = "QvlError"; // written out, as bundlers shorten the names of classes
  readonly what: string;
  readonly where: string | undefined;
  readonly fix: string | undefined;

  constructor(what: string, advice: Advice = {}, options?: ErrorOptions) {
    const place = advice.where === undefined ? "" : `${advice.where}: `;
    const hint = advice.fix ? ` (${advice.fix})` : "";
    super(`${place}${what}${hint}`.replace(/\s*\n\s*/g, " "), options);
    this.what = what;
    this.where = advice.where;
    this.fix = advice.fix;
  }
}

/** The first line of what a library throws, of at most 300 characters. */
export function firstLine(error: unknown): string {
  return String((error as Error)?.message ?? error)
    .split("\n")[0]
    .slice(0, 300);
}

/** A bundle is missing, damaged, truncated, of a newer schema version, or needs what this runtime lacks. */
export class BundleError extends QvlError {
  override readonly name = "BundleError";
}

/** An image or video cannot be used. */
export class MediaError extends QvlError {
  override readonly name = "MediaError";
}

/** Messages or options that the model cannot process. */
export class PromptError extends QvlError {
  override readonly name = "PromptError";
}

/** The engine failed while running. */
export class EngineError extends QvlError {
  override readonly name = "EngineError";
}

/** A package that the bundle needs is not installed. */
export class InstallError extends QvlError {
  override readonly name = "InstallError";
}
