/** Checks of options, which throw PromptError. */

import { PromptError } from "../errors.js";

/** Returns a whole number from `least` on. */
export function checkInt(name: string, value: unknown, least: number, fix = ""): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least) {
    throw new PromptError(`${name} must be a whole number >= ${least}, got ${quoted(value)}`, { fix });
  }
  return value;
}

/** Returns a finite number from `least` (exclusive if `above`) to `most`. */
export function checkFloat(
  name: string,
  value: unknown,
  least = 0,
  most = Number.POSITIVE_INFINITY,
  above = false,
  fix = "",
): number {
  if (
    typeof value !== "number" ||
    !Number.isFinite(value) ||
    value < least ||
    value > most ||
    (above && value === least)
  ) {
    const bounds = `${above ? ">" : ">="} ${least}${most < Number.POSITIVE_INFINITY ? ` and <= ${most}` : ""}`;
    throw new PromptError(`${name} must be a number ${bounds}, got ${quoted(value)}`, { fix });
  }
  return value;
}

/** Returns true or false. */
export function checkFlag(name: string, value: unknown): boolean {
  if (typeof value !== "boolean") throw new PromptError(`${name} must be true or false, got ${quoted(value)}`);
  return value;
}

/** Throws PromptError for an option that does not exist, unless its value is undefined. */
export function checkNames(options: object, names: readonly string[]): void {
  const unknown = Object.entries(options).find(([name, value]) => value !== undefined && !names.includes(name))?.[0];
  if (unknown !== undefined) {
    throw new PromptError(`there is no option ${quoted(unknown)}`, { fix: `there are ${names.join(", ")}` });
  }
}

/** A value as errors quote it. */
export function quoted(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : (JSON.stringify(value) ?? String(value));
  return text.slice(0, 80);
}
