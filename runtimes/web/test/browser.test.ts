/** A browser reads a page: headless Chromium, WebAssembly, the bundle from a URL, the page from a PNG file or a PDF. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { nestedForms, pdfOf } from "./pdfs.js";

interface Answer {
  bundle: string;
  backend: string;
  messages: { content: { image?: string; pdf?: string; pages?: string; text?: string }[] }[];
  options: { max_new_tokens: number };
  tokens: number[];
  text: string;
}

const CHROMIUM = "chromium";
const FILE = process.env.QVL_WEB_ANSWERS;
const ANSWERS: Answer[] = FILE ? JSON.parse(readFileSync(FILE, "utf8")) : [];
const IN_BROWSERS = ANSWERS.filter(({ backend }) => backend === "wasm");
const ANSWER = IN_BROWSERS[0];
const OF_PDF = IN_BROWSERS.find(({ messages }) => messages[0].content[0].pdf !== undefined);
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
  "pdfjs-dist/legacy/build/pdf.mjs": "/node_modules/pdfjs-dist/legacy/build/pdf.min.mjs",
  "pdfjs-dist/legacy/build/pdf.worker.mjs": "/node_modules/pdfjs-dist/legacy/build/pdf.worker.min.mjs",
};
const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** A page that reads a page, whose answer and statistics it reports. */
function pageOf({ messages, options }: Answer): string {
  const prompt = messages[0].content[1].text;
  return reporting(`
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
  await report({ text, tokens, sources: [...sources], worker, same });`);
}

/** A page that reads a page of a PDF: pages are counted in the page, and drawn in the worker. */
function pageOfPdf({ messages, options }: Answer): string {
  const [{ pages }, { text: prompt }] = messages[0].content;
  return reporting(`
  const { load, pdfPages, drawPage } = await import("/build/src/index.js");
  const model = await load(location.origin + "/bundle", { threads: 1 });
  const file = new File([await (await fetch("/page.pdf")).blob()], "page.pdf");
  const [image] = await pdfPages(file, { pages: ${JSON.stringify(pages)}, dpi: 144 });
  const content = [{ type: "image", image }, { type: "text", text: ${JSON.stringify(prompt)} }];
  const stream = model.stream([{ role: "user", content }], { max_new_tokens: ${options.max_new_tokens} });
  const [text, tokens] = [await stream.text(), stream.run.tokens];
  await model.close();
  const [letter] = await pdfPages(await (await fetch("/letter.pdf")).blob());
  const { data, width } = await drawPage(letter);
  const ink = data.filter((value, at) => at % 4 === 0 && value < 128).length;
  const errors = [];
  for (const [name, limits] of [["attack.pdf", { seconds: 1 }], ["letter.pdf", { seconds: 1e-6 }]]) {
    const made = new File([await (await fetch("/" + name)).blob()], name);
    await pdfPages(made, { limits }).then(([page]) => drawPage(page)).catch(({ message }) => errors.push(message));
  }
  await report({ text, tokens, width, ink, errors });`);
}

/** A page that stops a load in the middle of a file, and tells what the browser has kept. */
function pageThatStops(): string {
  return reporting(`
  const { load } = await import("/build/src/index.js");
  const control = new AbortController();
  const names = new Set();
  const progress = ({ file }) => {
    names.add(file);
    if (file === "llm.onnx.data") control.abort(new Error("no longer wanted"));
  };
  const options = { threads: 1, progress, signal: control.signal };
  const error = await load(location.origin + "/stalled", options).catch(({ message }) => message);
  const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("qvl-runtime");
  const kept = [];
  for await (const folder of root.values()) for await (const [name, file] of folder.entries()) {
    kept.push({ name, size: (await file.getFile()).size });
  }
  names.delete("llm.onnx.data");
  await report({ error, names: [...names], kept });`);
}

function reporting(program: string): string {
  return `<script type="importmap">${JSON.stringify({ imports: IMPORTS })}</script>
<script type="module">
const report = (result) => fetch("/result", { method: "POST", body: JSON.stringify(result) });
try {${program}
} catch (error) {
  await report({ error: String(error?.stack ?? error) });
}
</script>`;
}

/** Serves the page, the package, its dependencies and the bundle; `done` gets what the page reports. */
function served(page: string, fileOf: (path: string) => string | Uint8Array, done: (result: unknown) => void): Server {
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
      const found = path === "/" ? Buffer.from(page) : fileOf(path);
      const content = typeof found === "string" ? readFileSync(found) : found;
      const type = TYPES[path === "/" ? ".html" : extname(path)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type });
      if (path === "/stalled/llm.onnx.data") response.write(content.subarray(0, content.length / 2));
      else response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
}

/** What a page reports in Chromium. */
async function reported(
  context: TestContext,
  page: string,
  fileOf: (path: string) => string | Uint8Array,
): Promise<unknown> {
  const profile = mkdtempSync(join(tmpdir(), "qvl-web-"));
  let browser: ChildProcess | undefined;
  return new Promise<unknown>((resolve) => {
    const server = served(page, fileOf, resolve).listen(0, "127.0.0.1", () => {
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
}

/** A file of the package, or of the bundle below `/bundle` and `/stalled`. */
function shared(path: string, bundle: string): string {
  const [, folder, ...rest] = path.split("/");
  return folder === "bundle" || folder === "stalled" ? join(bundle, ...rest) : `.${path}`;
}

test("Chromium reads a page as Python does", { skip: SKIP, timeout: 120_000 }, async (context) => {
  const { bundle, messages, text, tokens } = ANSWER!;
  const fileOf = (path: string) => (path === "/page.png" ? messages[0].content[0].image! : shared(path, bundle));
  const result = await reported(context, pageOf(ANSWER!), fileOf);
  assert.deepEqual(result, { text, tokens, sources: ["kept"], worker: true, same: true });
});

test("Chromium reads a page of a PDF as Python does", { skip: SKIP, timeout: 120_000 }, async (context) => {
  const { bundle, messages, text, tokens } = OF_PDF!;
  const files: Record<string, string | Uint8Array> = {
    "/page.pdf": messages[0].content[0].pdf!,
    "/letter.pdf": pdfOf(["BT /F 12 Tf 10 80 Td (Total: 12) Tj ET"], "[0 0 200 100]"),
    "/attack.pdf": nestedForms(),
  };
  const result = await reported(context, pageOfPdf(OF_PDF!), (path) => files[path] ?? shared(path, bundle));
  const { ink, ...others } = result as { ink: number };
  assert.deepEqual(others, {
    text,
    tokens,
    width: 417,
    errors: [
      "attack.pdf: page 1 cannot be drawn: it takes longer than 1 s",
      "letter.pdf: cannot be read as a PDF: it takes longer than 0.000001 s",
    ],
  });
  assert.ok(ink > 300 && ink < 2000, `${ink}`);
});

test("Chromium keeps no part of a file whose download was stopped", {
  skip: SKIP,
  timeout: 120_000,
}, async (context) => {
  const { bundle } = ANSWER!;
  const result = await reported(context, pageThatStops(), (path) => shared(path, bundle));
  const { error, names, kept } = result as { error: string; names: string[]; kept: { name: string; size: number }[] };
  assert.equal(error, "no longer wanted");
  const { files } = JSON.parse(readFileSync(join(bundle, "bundle.json"), "utf8"));
  const whole = names.map((name) => ({ name: files[name].sha256, size: files[name].size }));
  const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
  assert.deepEqual(kept.sort(byName), whole.sort(byName));
});
