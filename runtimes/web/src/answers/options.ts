/** Options of an answer: the caller's values, else the checkpoint's if requested, else greedy decoding. */

import { checkFlag, checkInt, checkNames, quoted } from "../common/checks.js";
import { PromptError } from "../errors.js";
import type { GenerationDefaults, Manifest } from "../manifest.js";
import { alternatives } from "./logprobs.js";
import { checkPenalties, type Penalties } from "./penalties.js";
import { checkSampling, type Sampling } from "./sampling.js";

const MAX_NEW_TOKENS = 512;

/** Names and meaning are those of the Python runtime. */
export interface AnswerOptions {
  max_new_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  repetition_penalty?: number;
  no_repeat_ngram_size?: number;
  presence_penalty?: number;
  /** Options that are not given come from the checkpoint's `generation_config.json`. */
  use_generation_config?: boolean;
  /** The answer ends before the first of these texts. */
  stop?: string | string[];
  /** The answer ends once it repeats the same tokens over and over. */
  stop_loops?: boolean;
  /** Whether `run.logprobs` gets the log probability of each token, and of the `top_logprobs` likeliest ones (at most 20). */
  logprobs?: boolean;
  top_logprobs?: number;
}

/** `alternatives` is the number of likeliest tokens recorded with each log probability, null if none are recorded. */
export interface ResolvedOptions {
  maxNewTokens: number;
  sampling: Sampling;
  penalties: Penalties;
  stop: string[];
  stopLoops: boolean;
  alternatives: number | null;
}

const GREEDY: GenerationDefaults = {
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
  max_new_tokens: null,
};

/** The names of `AnswerOptions`, and of `StreamOptions`. */
const NAMES = [
  ...["max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed"],
  ...["repetition_penalty", "no_repeat_ngram_size", "presence_penalty", "use_generation_config"],
  ...["stop", "stop_loops", "logprobs", "top_logprobs"],
  ...["tools", "template_args", "signal", "ignore_eos"],
];
/** The Python runtime's name of this option, and that of OpenAI's interface. */
const SCHEMAS = ["json_schema", "response_format"];

/** Returns the options with defaults filled in; throws PromptError for values out of range. */
export function resolveOptions(options: AnswerOptions, manifest: Manifest): ResolvedOptions {
  checkSchemas(options);
  checkNames(options, NAMES);
  const checkpoint = checkpointOptions(options, manifest);
  return {
    maxNewTokens: limit(options, checkpoint, manifest.llm.max_length),
    sampling: checkSampling({
      temperature: options.temperature ?? (checkpoint.do_sample ? checkpoint.temperature : 0),
      top_p: options.top_p ?? checkpoint.top_p,
      top_k: options.top_k ?? checkpoint.top_k,
      min_p: options.min_p ?? checkpoint.min_p,
      seed: options.seed ?? null,
    }),
    penalties: checkPenalties({
      repetition_penalty: options.repetition_penalty ?? checkpoint.repetition_penalty,
      no_repeat_ngram_size: options.no_repeat_ngram_size ?? checkpoint.no_repeat_ngram_size,
      presence_penalty: options.presence_penalty ?? 0,
    }),
    stop: stopStrings(options.stop ?? []),
    stopLoops: checkFlag("stop_loops", options.stop_loops ?? false),
    alternatives: alternatives(options.logprobs ?? false, options.top_logprobs),
  };
}

function checkSchemas(options: object): void {
  const given = Object.entries(options).find(([name, value]) => value !== undefined && SCHEMAS.includes(name))?.[0];
  if (given === undefined) return;
  throw new PromptError(
    `${given} is not supported: the library for grammars, llguidance, has no build for JavaScript`,
    { fix: "ask for JSON in the prompt and check it, or use the runtime for Python" },
  );
}

function checkpointOptions(options: AnswerOptions, manifest: Manifest): GenerationDefaults {
  if (!options.use_generation_config) return GREEDY;
  if (manifest.generation === null) {
    throw new PromptError("the bundle does not hold the checkpoint's generation settings", {
      fix: "export it again, or leave use_generation_config out",
    });
  }
  return manifest.generation;
}

/** The token limit; the default leaves room for a prompt. */
function limit(options: AnswerOptions, checkpoint: GenerationDefaults, maxLength: number): number {
  if (options.max_new_tokens !== undefined) return checkInt("max_new_tokens", options.max_new_tokens, 1);
  if (checkpoint.max_new_tokens !== null) {
    return Math.max(1, Math.min(checkpoint.max_new_tokens, Math.floor(maxLength / 2)));
  }
  return Math.max(1, Math.min(MAX_NEW_TOKENS, Math.floor(maxLength / 4)));
}

function stopStrings(stop: string | string[]): string[] {
  const strings = typeof stop === "string" ? [stop] : stop;
  if (!Array.isArray(strings) || !strings.every((text) => typeof text === "string" && text !== "")) {
    throw new PromptError(`stop must be a text or a list of texts, none empty, got ${quoted(stop)}`);
  }
  return strings;
}
