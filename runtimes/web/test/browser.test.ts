/** A browser reads a page: headless Chromium, WebAssembly, the bundle from a URL, the page from a PNG file. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { test } from "node:test";

interface Answer {
  bundle: string;
  backend: string;
  messages: { content: { image?: string; text?: string }[] }[];
  options: { max_new_tokens: number };
  tokens: number[];
  text: string;
}

const CHROMIUM = "chromium";
const FILE = process.env.QVL_WEB_ANSWERS;
const ANSWERS: Answer[] = FILE ? JSON.parse(readFileSync(FILE, "utf8")) : [];
const ANSWER = ANSWERS.find(({ backend }) => backend === "wasm");
const INSTALLED = spawnSync(CHROMIUM, ["--version"]).status === 0;
const SKIP = !INSTALLED
  ? "chromium is not installed"
  : ANSWER === undefined && "run pytest tests/web, which makes bundles";
/** Where packages are, for a page without a bundler. */
const IMPORTS = {
  "@huggingface/jinja": "/node_modules/@huggingface/jinja/dist/index.js",
  "@huggingface/tokenizers": "/node_modules/@huggingface/tokenizers/dist/tokenizers.mjs",
  "@noble/hashes/sha2.js": "/node_modules/@noble/hashes/sha2.js",
  "onnxruntime-web/wasm": "/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs",
};
const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

function pageOf({ messages, options }: Answer): string {
  const prompt = messages[0].content[1].text;
  return `<script type="importmap">${JSON.stringify({ imports: IMPORTS })}</script>
<script type="module">
const report = (result) => fetch("/result", { method: "POST", body: JSON.stringify(result) });
try {
  const { load } = await import("/build/src/index.js");
  const model = await load(location.origin + "/bundle", { threads: 1 });
  const image = await (await fetch("/page.png")).blob();
  const content = [{ type: "image", image }, { type: "text", text: ${JSON.stringify(prompt)} }];
  const stream = model.stream([{ role: "user", content }], { max_new_tokens: ${options.max_new_tokens} });
  const [text, tokens] = [await stream.text(), stream.run.tokens];
  await model.close();
  const sources = new Set();
  await (await load("bundle/", { threads: 1, progress: ({ source }) => sources.add(source) })).close();
  const worker = performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/worker/main.js"));
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("copy", { create: true });
  const { files } = await (await fetch("/bundle/bundle.json")).json();
  for (const name of ["bundle.json", ...Object.keys(files)]) {
    const writer = await (await folder.getFileHandle(name, { create: true })).createWritable();
    await writer.write(await (await fetch("/bundle/" + name)).blob());
    await writer.close();
  }
  const handled = await load(folder, { threads: 1, worker: false });
  const same = (await handled.generate([{ role: "user", content }], { max_new_tokens: tokens.length })) === text;
  await handled.close();
  await report({ text, tokens, sources: [...sources], worker, same });
} catch (error) {
  await report({ error: String(error?.stack ?? error) });
}
</script>`;
}

/** Serves the page, the package, its dependencies and the bundle; `done` gets what the page reports. */
function served(answer: Answer, done: (result: unknown) => void): Server {
  return createServer((request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? "/";
    if (path === "/result") {
      let body = "";
      request.on("data", (piece) => {
        body += piece;
      });
      request.on("end", () => {
        response.end();
        done(JSON.parse(body));
      });
      return;
    }
    try {
      const content = path === "/" ? pageOf(answer) : readFileSync(fileOf(path, answer));
      response.writeHead(200, {
        "content-type": TYPES[path === "/" ? ".html" : extname(path)] ?? "application/octet-stream",
      });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
}

function fileOf(path: string, { bundle, messages }: Answer): string {
  if (path === "/page.png") return messages[0].content[0].image!;
  return path.startsWith("/bundle/") ? join(bundle, path.slice("/bundle/".length)) : `.${path}`;
}

test("Chromium reads a page as Python does", { skip: SKIP, timeout: 120_000 }, async (context) => {
  const profile = mkdtempSync(join(tmpdir(), "qvl-web-"));
  let browser: ChildProcess | undefined;
  const result = await new Promise<unknown>((resolve) => {
    const server = served(ANSWER!, resolve).listen(0, "127.0.0.1", () => {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
      const options = ["--headless", "--no-sandbox", "--disable-gpu", `--user-data-dir=${profile}`];
      browser = spawn(CHROMIUM, [...options, url], { stdio: "ignore", detached: true });
    });
    context.after(() => {
      if (browser?.pid) process.kill(-browser.pid, "SIGKILL");
      server.closeAllConnections();
      server.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    });
  });
  assert.deepEqual(result, { text: ANSWER!.text, tokens: ANSWER!.tokens, sources: ["kept"], worker: true, same: true });
});
