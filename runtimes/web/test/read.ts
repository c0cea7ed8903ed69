/**
 * Prints the answers of bundles as JSON, a list for each: node build/test/read.js FILE
 *
 * The file has a list of bundles, each with a backend and questions.
 */

import { readFileSync } from "node:fs";
import { load } from "../src/index.js";
import type { Backend } from "../src/sessions/backend.js";
import { messagesOf, type Question } from "./messages.js";

interface Reading {
  bundle: string;
  backend: Backend;
  questions: Question[];
}

const answers: string[][] = [];
for (const { bundle, backend, questions } of JSON.parse(readFileSync(process.argv[2], "utf8")) as Reading[]) {
  const model = await load(bundle, { backend, threads: 1 });
  const said: string[] = [];
  for (const question of questions) said.push(await model.generate(await messagesOf(question), question.options));
  answers.push(said);
  await model.close();
}
console.log(JSON.stringify(answers));
