/** The rules by which blocks are left out, and how users name them. */

import { quoted } from "../common/checks.js";
import { PromptError } from "../errors.js";

/** Leaves out blocks that differ from their prediction by at most `tolerance`; null leaves out nothing. */
export interface Rule {
  tolerance: number | null;
}

export const OFF: Rule = { tolerance: null };
const RULES: Record<string, Rule> = { off: OFF, exact: { tolerance: 0 }, scan: { tolerance: 8 } };
export type RuleName = "off" | "exact" | "scan" | number | boolean;

/** Returns the rule that a value names; null for null or undefined. Throws PromptError for anything else. */
export function parseRule(value: unknown): Rule | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "boolean") return value ? RULES.scan : OFF;
  if (typeof value === "string" && Object.hasOwn(RULES, value)) return RULES[value];
  if (typeof value === "number" && value >= 0 && value <= 255) return { tolerance: value };
  throw new PromptError(
    `prune must be ${Object.keys(RULES).join(", ")} or a number from 0 to 255, got ${quoted(value)}`,
  );
}
