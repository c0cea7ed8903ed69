/** What a page and its worker send each other: calls of the methods of `Host`, their results, and progress of loading. */

import { type Advice, BundleError, EngineError, InstallError, MediaError, PromptError, QvlError } from "../errors.js";
import type { LoadProgress } from "../remote/progress.js";
import type { Host } from "./host.js";

/** Names of the methods that a page calls. */
export type CallName =
  | "load"
  | "abortLoad"
  | "stream"
  | "next"
  | "end"
  | "abort"
  | "prompt"
  | "logits"
  | "tokenIds"
  | "clear";

export type Arguments<Name extends CallName> = Parameters<Host[Name]>;
export type Result<Name extends CallName> = Awaited<ReturnType<Host[Name]>>;

export interface Call {
  id: number;
  name: CallName;
  args: unknown[];
}

export type Reply = { id: number; value: unknown } | { id: number; failure: Failure } | { progress: LoadProgress };

/** One end of a channel: a worker, or the scope of one. */
export interface Port {
  postMessage(message: unknown): void;
  onmessage: ((event: MessageEvent) => void) | null;
}

/** An error as it is sent, since copies of errors lose their class and fields. */
export interface Failure {
  name: string;
  what: string;
  advice: Advice;
  stack: string | undefined;
}

const ERRORS: Record<string, typeof QvlError> = { BundleError, EngineError, InstallError, MediaError, PromptError };

export function toFailure(error: unknown): Failure {
  if (error instanceof QvlError) {
    const { name, what, where, fix, stack } = error;
    return { name, what, advice: { where, fix }, stack };
  }
  const { name = "Error", message = String(error), stack } = error as Partial<Error>;
  return { name, what: message, advice: {}, stack };
}

export function fromFailure({ name, what, advice, stack }: Failure): Error {
  const error = name in ERRORS ? new ERRORS[name](what, advice) : Object.assign(new Error(what), { name });
  error.stack = stack;
  return error;
}
