/** Tools and tool calls: what is refused, and an answer as the message of the next turn. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { load, type Message, parseCalls, type Tool } from "../src/index.js";
import { ChatTemplate, type TemplateMessage } from "../src/templates/chat.js";

const { templates } = JSON.parse(readFileSync("../../tests/conformance/templates.json", "utf8")).shared;
const CALLS = ['{"name": "look_up", "arguments": {"id": "7"}}', '{"name": "now", "arguments": {}}'];
const ANSWER = `Let me see.\n${CALLS.map((call) => `<tool_call>\n${call}\n</tool_call>`).join("\n")}`;

/** The template of Qwen3.5, which this runtime does not run, writes calls with marks. */
for (const name of Object.keys(templates).filter((each) => each !== "qwen3_5")) {
  test(`a parsed answer is rendered as it was said, template ${name}`, async () => {
    const { text, calls, ...reply } = parseCalls(ANSWER);
    assert.deepEqual([text, calls.length, reply.malformed], ["Let me see.", 2, []]);
    const messages = [
      { role: "user", content: "Who?" },
      parseCalls(ANSWER).message(),
      ...["Bob", "12:00"].map((content) => ({ role: "tool", content })),
    ];
    const template = await ChatTemplate.parse(templates[name], name);
    const prompt = template.render(messages as TemplateMessage[], [{ name: "look_up" }, { name: "now" }]);
    assert.ok(prompt.includes(`<|im_start|>assistant\n${ANSWER}<|im_end|>\n`), prompt);
  });
}

test("an answer without calls is a message of text", () => {
  assert.deepEqual(parseCalls("Hm.").message(), { role: "assistant", content: "Hm." });
});

test("hostile answers take no time", () => {
  const deep = "[".repeat(100_000);
  assert.deepEqual(parseCalls(`<tool_call>${deep}`).malformed, [deep]);
  const marks = `<function=f>${"<parameter=a>".repeat(50_000)}`;
  assert.deepEqual(parseCalls(`<tool_call>${marks}`).malformed, [marks]);
  assert.deepEqual(parseCalls(`<tool_call>${marks}</function>`).calls, [{ name: "f", arguments: { a: "" } }]);
  const { calls } = parseCalls('<tool_call>{"name": "f", "arguments": {"__proto__": {"a": 1}}}</tool_call>');
  assert.deepEqual(Object.keys(calls[0].arguments), ["__proto__"]);
});

const SAID: Message = { role: "user", content: "Who?" };
const WRONG: [string, object[], unknown, RegExp][] = [
  ["tools that are no list", [SAID], "now", /tools must be a list of function descriptions, got "now"/],
  ["a tool without a name", [SAID], [{ function: {} }], /cannot use the tool {"function":{}} \(describe it as/],
  ["a call without a name", [{ ...SAID, tool_calls: [{}] }], [], /cannot use the tool call {} \(write { type:/],
  ["calls that are no list", [{ ...SAID, tool_calls: "now" }], [], /cannot use the tool call "now"/],
  [
    "arguments that are no object",
    [{ ...SAID, tool_calls: [{ name: "f", arguments: 1 }] }],
    [],
    /cannot use the tool ca/,
  ],
];

test("what cannot be used is refused in one line", async (context) => {
  const model = await load("../../tests/checkpoints/bundles/v1", { threads: 1 });
  context.after(() => model.close());
  for (const [what, messages, tools, message] of WRONG) {
    await context.test(what, async () => {
      await assert.rejects(() => model.prompt(messages as Message[], 0, tools as Tool[]), {
        name: "PromptError",
        message,
      });
    });
  }
  const calls = [{ function: { name: "now" } }];
  const called = { role: "assistant", tool_calls: calls } as unknown as Message;
  const empty = { role: "assistant", content: "", tool_calls: calls } as Message;
  const ids = async (message: Message) => (await model.prompt([SAID, message])).ids;
  assert.deepEqual(await ids(called), await ids(empty));
});
