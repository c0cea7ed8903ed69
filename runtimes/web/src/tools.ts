/**
 * Describes tools to a model whose template cannot, with the wording of templates that can, and reads tool calls from an
 * answer.
 *
 *     const reply = parseCalls(await model.generate(messages, { tools }), tools);
 *     messages.push(reply.message(), ...reply.calls.map((call) => ({ role: "tool", content: run(call) })));
 *
 * Qwen models write `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`; since Qwen3.5 the call within is
 * `<function=NAME>`, `<parameter=NAME>` and a value per argument, and their end marks.
 */

import { quoted } from "./common/checks.js";
import { PromptError } from "./errors.js";
import { parseAt, parseJson } from "./json_prefix.js";
import type { Message } from "./prompts/content.js";
import type { TemplateMessage } from "./templates/chat.js";

export type Tool = Record<string, unknown>;

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";
const FENCE = /^\s*(?:```(?:json)?\s*)?/;
const END = /^\s*(?:```\s*)?(?:<\/tool_call>)?/;
const FUNCTION = /^\s*<function=([^>\n]+)>/;
const FUNCTION_END = "</function>";
const PARAMETER = /<parameter=([^>\n]+)>\n?(.*?)\n?(?:<\/parameter>|(?=<parameter=)|$)/gs;
const DEFAULT_SYSTEM = "You are a helpful assistant.";

function description(lines: string): string {
  return `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
${lines}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>`;
}

/** Returns tools as templates expect them, null if there are none; throws PromptError for what is no tool. */
export function checkTools(tools: unknown): Tool[] | null {
  if (!Array.isArray(tools))
    throw new PromptError(`tools must be a list of function descriptions, got ${quoted(tools)}`);
  const wrong = tools.find((tool) => typeof functionOf(tool).name !== "string");
  if (wrong !== undefined) {
    throw new PromptError(`cannot use the tool ${quoted(wrong)}`, {
      fix: 'describe it as { type: "function", function: { name: …, description: …, parameters: … } }',
    });
  }
  return tools.length > 0 ? tools : null;
}

/** Throws PromptError unless the `tool_calls` of a message are a list of named calls. */
export function checkCalls(calls: unknown): void {
  const list = calls ?? [];
  for (const call of Array.isArray(list) ? list : [list]) {
    const { name, arguments: given = {} } = functionOf(call);
    if (typeof name !== "string" || !(isObject(given) || typeof given === "string")) {
      throw new PromptError(`cannot use the tool call ${quoted(call)}`, {
        fix: 'write { type: "function", function: { name: …, arguments: {…} } }',
      });
    }
  }
}

/** A function call that the model requests. Whole numbers beyond 2^53 lose digits, as in any JSON of JavaScript. */
export interface Call {
  name: string;
  arguments: Record<string, unknown>;
}

/** A parsed answer: its `text` without the calls, the `calls`, and `malformed` calls as written. */
export class Reply {
  constructor(
    readonly text: string,
    readonly calls: readonly Call[],
    readonly malformed: readonly string[],
  ) {}

  /** The answer as a message for the next turn; results follow it with the role `tool`, in order. */
  message(): Message {
    const calls = this.calls.map((call) => ({ type: "function", function: { ...call } }));
    return { role: "assistant", content: this.text, ...(calls.length > 0 ? { tool_calls: calls } : {}) };
  }
}

/**
 * Parses the tool calls of an answer; a last one without its end mark counts if the call itself is complete.
 *
 * Calls that are not written in JSON have no types: `tools` say which arguments are not text.
 */
export function parseCalls(text: string, tools: readonly Tool[] = []): Reply {
  const [before, ...parts] = text.split(OPEN);
  const texts = [before];
  const calls: Call[] = [];
  const malformed: string[] = [];
  for (const part of parts) {
    const found = FUNCTION.test(part) ? markedCall(part, tools) : jsonCalls(part);
    if (found === null) {
      const [body, ...rest] = part.split(CLOSE);
      malformed.push(body.trim());
      texts.push(rest.join(CLOSE));
    } else {
      calls.push(...found.calls);
      texts.push(part.slice(found.end).replace(END, ""));
    }
  }
  return new Reply(texts.join("").trim(), calls, malformed);
}

/** Calls at the start of a text, and where they end. */
type Found = { calls: Call[]; end: number } | null;

function jsonCalls(part: string): Found {
  const parsed = parseAt(part, FENCE.exec(part)![0].length);
  if ("failedAt" in parsed) return null;
  const calls = (Array.isArray(parsed.value) ? parsed.value : [parsed.value]).map(callOf);
  return calls.every((call) => call !== null) ? { calls, end: parsed.end } : null;
}

/** A call with a mark per argument. */
function markedCall(part: string, tools: readonly Tool[]): Found {
  const start = FUNCTION.exec(part)!;
  const end = part.indexOf(FUNCTION_END);
  if (end < 0) return null;
  const name = start[1].trim();
  const tool = tools.map(functionOf).findLast((each) => each.name === name);
  const types = objectOr(objectOr(tool?.parameters).properties);
  const found = part.slice(start[0].length, end).matchAll(PARAMETER);
  const values = Array.from(found, ([, key, value]) => [key.trim(), typed(value, types[key.trim()])]);
  return { calls: [{ name, arguments: Object.fromEntries(values) }], end: end + FUNCTION_END.length };
}

/** An argument as its JSON schema has it: text, unless another type is named and the text is its JSON. */
function typed(text: string, schema: unknown): unknown {
  const kind = objectOr(schema).type;
  const kinds = (Array.isArray(kind) ? kind : [kind]).filter((each) => each !== undefined && each !== null);
  const others = kinds.some((each) => each !== "null" && each !== "string");
  if (kinds.length === 0 || (!others && text !== "null")) return text;
  const parsed = parseJson(text);
  if (parsed === null || typeof parsed.value === "string") return text;
  return parsed.value === null && !kinds.includes("null") ? text : parsed.value;
}

/** A JSON value as a call, null if it is none. */
function callOf(value: unknown): Call | null {
  const { name, arguments: given = {} } = objectOr(value);
  const parsed = typeof given === "string" ? parseJson(given)?.value : given;
  return typeof name === "string" && name !== "" && isObject(parsed) ? { name, arguments: parsed } : null;
}

/** The value's `function`, or the value itself if it has none; empty if that is no object. */
function functionOf(value: unknown): Record<string, unknown> {
  return objectOr(isObject(value) && "function" in value ? value.function : value);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function objectOr(value: unknown): Record<string, unknown> {
  return isObject(value) ? value : {};
}

interface TextPart {
  type: string;
  text?: string;
}

/** Tools are described in the system message, calls become text, and consecutive results become one user message. */
export function inlineTools(messages: readonly TemplateMessage[], tools: readonly Tool[]): TemplateMessage[] {
  const hasSystem = messages[0].role === "system";
  const first = hasSystem ? messages[0] : { role: "system", content: DEFAULT_SYSTEM };
  const lines = tools.map((tool) => pythonJson(tool)).join("\n");
  const system = { ...first, content: [...parts(first), text(`\n\n${description(lines)}`)] };
  return [system, ...withoutToolRoles(hasSystem ? messages.slice(1) : messages)];
}

function withoutToolRoles(messages: readonly TemplateMessage[]): TemplateMessage[] {
  const found: TemplateMessage[] = [];
  let results: TextPart[] | null = null;
  for (const message of messages) {
    if (message.role !== "tool") {
      results = null;
      found.push(withCalls(message));
      continue;
    }
    const content: TextPart[] = [text("\n<tool_response>\n"), ...parts(message), text("\n</tool_response>")];
    if (results === null) {
      results = [text("<tool_response>\n"), ...content.slice(1)];
      found.push({ role: "user", content: results });
    } else {
      results.push(...content);
    }
  }
  return found;
}

function withCalls(message: TemplateMessage): TemplateMessage {
  const { tool_calls: calls, ...rest } = message;
  const content = parts(message);
  for (const call of (calls as Tool[] | null | undefined) ?? []) {
    const called = (call.function ?? call) as { name: string; arguments?: unknown };
    const start = content.some((part) => part.text ?? "x") ? "\n" : "";
    const written = `{"name": "${called.name}", "arguments": ${pythonJson(called.arguments ?? {})}}`;
    content.push(text(`${start}${OPEN}\n${written}\n${CLOSE}`));
  }
  return { ...rest, role: message.role, content };
}

function parts(message: TemplateMessage): TextPart[] {
  return typeof message.content === "string" ? [text(message.content)] : [...(message.content as TextPart[])];
}

function text(content: string): TextPart {
  return { type: "text", text: content };
}

/** JSON with the spaces that Python writes. */
export function pythonJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${pythonJson(item)}`)
      .join(", ")}}`;
  }
  return JSON.stringify(value);
}
