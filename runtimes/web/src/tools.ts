/** Describes tools to a model whose template cannot, with the wording of templates that can. */

import type { TemplateMessage } from "./templates/chat.js";

export type Tool = Record<string, unknown>;

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";
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
