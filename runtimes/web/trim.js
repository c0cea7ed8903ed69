/** Makes the built package smaller: without declarations that those of `index` do not name, and blanks of the schema. */

import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const named = new Set();

function visit(file) {
  if (named.has(file)) return;
  named.add(file);
  for (const [, path] of readFileSync(file, "utf8").matchAll(/(?:from |import\()"(\.[^"]+)\.js"/g)) {
    visit(join(dirname(file), `${path}.d.ts`));
  }
}

visit(join("dist", "index.d.ts"));
for (const name of readdirSync("dist", { recursive: true })) {
  const file = join("dist", name);
  if (name.endsWith(".d.ts") && !named.has(file)) rmSync(file);
  if (name.endsWith(".json")) writeFileSync(file, JSON.stringify(JSON.parse(readFileSync(file, "utf8"))));
}
