/** Bundles below a URL: progress, hashes, what is kept for the next time, and what is refused before it is downloaded. */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { forget, type LoadOptions, type LoadProgress, load, type Message } from "../src/index.js";
import { serveHost } from "../src/worker/host.js";
import type { Port } from "../src/worker/protocol.js";
import { Channel, loadThrough } from "../src/worker/proxy.js";

const BUNDLE = "../../tests/checkpoints/bundles/v1";
const MESSAGES: Message[] = [{ role: "user", content: "What is the date?" }];
const OPTIONS = { threads: 1, backend: "wasm" } as const;
const WEIGHTS = "llm.onnx.data";

/**
 * A server of a bundle, whose files can be replaced; `requests` are the names that were asked for. Of `stalled` files half
 * is sent, and no more; `left` are those whose connection the client then closed.
 */
interface Place {
  url: string;
  server: Server;
  requests: string[];
  replaced: Record<string, Buffer>;
  stalled: Set<string>;
  left: string[];
}

async function served(context: TestContext): Promise<Place> {
  const place: Omit<Place, "url" | "server"> = { requests: [], replaced: {}, stalled: new Set(), left: [] };
  const server = createServer((request, response) => {
    const name = (request.url ?? "").slice("/bundle/".length);
    place.requests.push(name);
    const path = `${BUNDLE}/${name}`;
    if (place.stalled.has(name)) {
      const content = readFileSync(path);
      response.on("close", () => place.left.push(name));
      response.writeHead(200, { "content-length": content.length }).write(content.subarray(0, content.length / 2));
    } else if (name in place.replaced) response.writeHead(200).end(place.replaced[name]);
    else if (existsSync(path)) response.writeHead(200).end(readFileSync(path));
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => closed(server));
  return { ...place, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/bundle`, server };
}

async function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}

/** Browsers' cache of responses in memory, for the time of a test. */
function withCaches(context: TestContext, failing = false): Map<string, Map<string, Uint8Array<ArrayBuffer>>> {
  const all = new Map<string, Map<string, Uint8Array<ArrayBuffer>>>();
  const fake = {
    open: async (name: string) => {
      const held = all.get(name) ?? all.set(name, new Map()).get(name)!;
      return {
        match: async (url: string) => (held.has(url) ? new Response(held.get(url)) : undefined),
        put: async (url: string, response: Response) => {
          if (failing) throw new DOMException("the disk is full", "QuotaExceededError");
          held.set(url, new Uint8Array(await response.arrayBuffer()));
        },
        keys: async () => [...held.keys()].map((url) => ({ url })),
        delete: async (url: string) => held.delete(url),
      };
    },
    delete: async (name: string) => all.delete(name),
  };
  Object.assign(globalThis, { caches: fake });
  context.after(() => Reflect.deleteProperty(globalThis, "caches"));
  return all;
}

async function answer(url: string, options = {}): Promise<string> {
  const model = await load(url, { ...OPTIONS, ...options });
  const text = await model.generate(MESSAGES, { max_new_tokens: 4 });
  await model.close();
  return text;
}

function sizesOf(): Record<string, { size: number; sha256: string }> {
  return JSON.parse(readFileSync(`${BUNDLE}/bundle.json`, "utf8")).files;
}

test("progress ends with all bytes of the files that are read", async (context) => {
  const { url, requests } = await served(context);
  const seen: LoadProgress[] = [];
  await answer(url, { progress: (progress: LoadProgress) => seen.push(progress) });
  assert.ok(seen.every(({ loaded }, at) => at === 0 || loaded >= seen[at - 1].loaded));
  const read = new Set(requests.slice(1));
  const total = Object.entries(sizesOf()).reduce((sum, [name, { size }]) => sum + (read.has(name) ? size : 0), 0);
  assert.equal(seen.at(-1)?.loaded, total);
  assert.ok(seen.every((progress) => progress.total === total && progress.source === "network"));
});

test("a second load asks for the manifest alone, and answers without a network", async (context) => {
  withCaches(context);
  const place = await served(context);
  const first = await answer(place.url);
  place.requests.length = 0;
  const sources = new Set<string>();
  const progress = ({ source }: LoadProgress) => sources.add(source);
  assert.equal(await answer(place.url, { progress }), first);
  assert.deepEqual(place.requests, ["bundle.json"]);
  assert.deepEqual([...sources], ["kept"]);
  await closed(place.server);
  assert.equal(await answer(place.url), first);
  await forget(`${place.url}/`);
  await assert.rejects(() => load(place.url, OPTIONS), {
    name: "BundleError",
    message: /bundle.json: cannot be fetch/,
  });
});

test("addresses without a bundle are refused in one line", async (context) => {
  const { url } = await served(context);
  const message = `${url}/none/bundle.json: cannot be fetched: HTTP 404 (give the address of the bundle's directory)`;
  await assert.rejects(() => load(`${url}/none`), { name: "BundleError", message });
  await assert.rejects(() => forget("none"), { message: '"none" is no address (give a URL, such as https://…)' });
});

test("nothing is kept on request", async (context) => {
  const caches = withCaches(context);
  const { url } = await served(context);
  await answer(url, { keep: false });
  assert.equal(caches.size, 0);
});

test("of a bundle that was exported again only changed files are fetched, and old ones are removed", async (context) => {
  const caches = withCaches(context);
  const place = await served(context);
  await answer(place.url);
  const [held] = caches.values();
  const before = new Set(held.keys());
  const manifest = JSON.parse(readFileSync(`${BUNDLE}/bundle.json`, "utf8"));
  const template = Buffer.from(`${readFileSync(`${BUNDLE}/chat_template.jinja`, "utf8")}{# new #}`);
  const digest = Buffer.from(await crypto.subtle.digest("SHA-256", template)).toString("hex");
  manifest.files["chat_template.jinja"] = { size: template.length, sha256: digest };
  place.replaced["chat_template.jinja"] = template;
  place.replaced["bundle.json"] = Buffer.from(JSON.stringify(manifest));
  place.requests.length = 0;
  await answer(place.url);
  assert.deepEqual(place.requests.sort(), ["bundle.json", "chat_template.jinja"]);
  assert.equal(held.size, before.size);
  assert.equal([...held.keys()].filter((url) => !before.has(url)).length, 1);
});

test("a bundle is used that the browser has no room to keep", async (context) => {
  withCaches(context, true);
  const warned = context.mock.method(console, "warn", () => {});
  const { url } = await served(context);
  await answer(url);
  assert.equal(warned.mock.callCount(), 1);
  assert.match(String(warned.mock.calls[0].arguments[0]), /does not keep http.*: QuotaExceededError: the disk is full/);
});

const weights = readFileSync(`${BUNDLE}/${WEIGHTS}`);
const DAMAGED: [string, Buffer, RegExp][] = [
  ["changed", Buffer.from(weights.map((byte, at) => (at === 1000 ? byte ^ 1 : byte))), /is damaged: its SHA-256 is/],
  ["shorter", weights.subarray(0, -1), /is truncated: \d+ bytes, the manifest says/],
  ["longer", Buffer.concat([weights, weights.subarray(0, 1)]), /is changed: more than the \d+ bytes/],
];

for (const [how, content, message] of DAMAGED) {
  test(`weights that arrive ${how} are refused, and not kept`, async (context) => {
    const caches = withCaches(context);
    const place = await served(context);
    place.replaced[WEIGHTS] = content;
    await assert.rejects(() => load(place.url, OPTIONS), { name: "BundleError", message });
    const { sha256 } = sizesOf()[WEIGHTS];
    assert.ok(![...caches.values()].some((held) => [...held.keys()].some((url) => url.endsWith(sha256))));
    delete place.replaced[WEIGHTS];
    await answer(place.url);
  });
}

/** Loads a bundle whose weights do not arrive whole, and aborts when half of them are there; returns the error. */
async function abortedLoad(place: Place, open: (options: LoadOptions) => Promise<unknown>): Promise<unknown> {
  place.stalled.add(WEIGHTS);
  const { size } = sizesOf()[WEIGHTS];
  const control = new AbortController();
  const seen = new Map<string, number>();
  let before = 0;
  const progress = ({ file, loaded }: LoadProgress) => {
    seen.set(file, (seen.get(file) ?? 0) + loaded - before);
    before = loaded;
    if ((seen.get(WEIGHTS) ?? 0) >= Math.floor(size / 2)) control.abort(new Error("no longer wanted"));
  };
  const error = await open({ ...OPTIONS, progress, signal: control.signal }).catch((reason) => reason);
  place.stalled.clear();
  return error;
}

async function openedThere(context: TestContext, url: string, options: LoadOptions): Promise<unknown> {
  const { port1, port2 } = new MessageChannel();
  context.after(() => port1.close());
  serveHost(port2 as unknown as Port);
  return loadThrough(new Channel(port1 as unknown as Port, () => port1.close()), url, options, {});
}

for (const where of ["here", "in a worker"]) {
  test(`an abort stops a download, and leaves no part of a file, ${where}`, async (context) => {
    const caches = withCaches(context);
    const place = await served(context);
    const open = (options: LoadOptions) =>
      where === "here" ? load(place.url, options) : openedThere(context, place.url, options);
    assert.equal(((await abortedLoad(place, open)) as Error).message, "no longer wanted");
    await until(() => place.left.includes(WEIGHTS));
    const kept = new Set([...caches.values()].flatMap((held) => [...held.keys()].map((url) => url.split("/").at(-1)!)));
    const sizes = sizesOf();
    assert.ok(!kept.has(sizes[WEIGHTS].sha256) && !kept.has("bundle.json"));
    assert.ok(kept.has(sizes["vision.onnx.data"].sha256)); // it had arrived whole
    place.requests.length = 0;
    assert.notEqual(await answer(place.url), "");
    assert.ok(place.requests.includes(WEIGHTS) && !place.requests.includes("vision.onnx.data"));
  });
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

test("a load that was aborted before it began asks for nothing", async (context) => {
  const place = await served(context);
  const signal = AbortSignal.abort();
  await assert.rejects(() => load(place.url, { ...OPTIONS, signal }), { name: "AbortError" });
  await assert.rejects(() => openedThere(context, place.url, { ...OPTIONS, signal }), { name: "AbortError" });
  assert.deepEqual(place.requests, []);
  await assert.rejects(() => load(BUNDLE, { threads: 1, signal }), { name: "AbortError" });
  const control = new AbortController();
  const loading = load(BUNDLE, { threads: 1, signal: control.signal });
  control.abort();
  await assert.rejects(() => loading, { name: "AbortError" });
});

const GIGABYTE = 2 ** 30;
const TOO_LARGE: [string, number, RegExp][] = [
  ["a file", 3 * GIGABYTE, /llm.onnx.data has 3.0 GB; browsers read files of up to 2 GB \(export it with/],
  ["the whole", 1.9 * GIGABYTE, /needs 5.7 GB of weights and 0.0 GB of cache, more than the 4 GB of WebAssembly/],
];

for (const [what, size, message] of TOO_LARGE) {
  test(`a bundle is refused before it is downloaded if ${what} is too large`, async (context) => {
    const place = await served(context);
    const manifest = JSON.parse(readFileSync(`${BUNDLE}/bundle.json`, "utf8"));
    manifest.files[WEIGHTS].size = size;
    manifest.files["vision.onnx.data"].size = 1.9 * GIGABYTE;
    manifest.files["llm.onnx"].size = 1.9 * GIGABYTE;
    for (const file of Object.values<{ size: number }>(manifest.files)) file.size = Math.floor(file.size);
    place.replaced["bundle.json"] = Buffer.from(JSON.stringify(manifest));
    await assert.rejects(() => load(place.url, OPTIONS), { name: "BundleError", message });
    assert.deepEqual(place.requests, ["bundle.json"]);
  });
}
