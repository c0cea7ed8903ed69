/** Renders a bundle's chat template, as the Python runtime does. */

import type { Template } from "@huggingface/jinja";
import { BundleError, PromptError } from "../errors.js";
import { importJinja } from "../packages.js";
import { inlineTools, type Tool } from "../tools.js";

export type TemplateMessage = Record<string, unknown> & { role: string; content: unknown };

/** Variables that the runtime provides to templates. */
const RESERVED = ["messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"];
const REASONING = ["reasoning_content", "thinking", "reasoning"];

export class ChatTemplate {
  private constructor(
    private readonly template: Template,
    private readonly knowsTools: boolean,
    private readonly specialTokens: Readonly<Record<string, string>>,
  ) {}

  /** Throws BundleError for what is not a template. */
  static async parse(
    source: string,
    where: string,
    specialTokens: Readonly<Record<string, string>> = {},
  ): Promise<ChatTemplate> {
    const { Template } = await importJinja();
    try {
      return new ChatTemplate(new Template(source), /\btools\b/.test(source), specialTokens);
    } catch (error) {
      throw new BundleError(`cannot be read as a template: ${String(error)}`, { where }, { cause: error });
    }
  }

  /** Returns the prompt up to the assistant's turn; a template that never mentions tools gets them as text. */
  render(
    messages: readonly TemplateMessage[],
    tools: readonly Tool[] | null = null,
    templateArgs: Readonly<Record<string, unknown>> = {},
  ): string {
    const taken = Object.keys(templateArgs).find((name) => RESERVED.includes(name));
    if (taken !== undefined) throw new PromptError(`template_args cannot set ${taken}`);
    const given = tools && !this.knowsTools ? inlineTools(messages, tools) : messages;
    const variables: Record<string, unknown> = {
      ...this.specialTokens,
      ...templateArgs,
      messages: given.map(normalized),
      documents: null,
      add_generation_prompt: true,
    };
    if (tools) variables.tools = tools;
    try {
      return this.template.render(variables);
    } catch (error) {
      throw new PromptError(
        `the chat template rejects these messages: ${(error as Error).message}`,
        {},
        { cause: error },
      );
    }
  }
}

/** Drops null values, and stores reasoning under the names that templates read. */
function normalized(message: TemplateMessage): Record<string, unknown> {
  const kept = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined));
  const name = REASONING.find((key) => key in kept);
  return name === undefined ? kept : { thinking: kept[name], ...kept, reasoning_content: kept[name] };
}
