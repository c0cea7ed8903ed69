/**
 * Prints the memory of WebAssembly after a bundle was loaded, and after a page of each size was read, in MiB.
 *
 * node build/test/memory.js BUNDLE WIDTHxHEIGHT…
 */

import { load } from "../src/index.js";

const memories: WebAssembly.Memory[] = [];
const Original = WebAssembly.Memory;
WebAssembly.Memory = class extends Original {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.push(this);
  }
};

function report(what: string): void {
  const bytes = memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
  const peak = process.resourceUsage().maxRSS / 2 ** 10;
  console.log(`${what}: WebAssembly ${Math.round(bytes / 2 ** 20)}, peak of the process ${Math.round(peak)}`);
}

const [bundle, ...sizes] = process.argv.slice(2);
const model = await load(bundle, { backend: "wasm", threads: 1 });
const data = new Set(Object.values(model.manifest.graphs).flatMap((graph) => graph.data ?? []));
const weights = [...data].reduce((sum, name) => sum + model.manifest.files[name].size, 0);
report(`weights of ${Math.round(weights / 2 ** 20)} loaded`);
for (const size of sizes) {
  const [width, height] = size.split("x").map(Number);
  const image = {
    data: Uint8Array.from({ length: width * height * 3 }, (_, at) => (at * 2654435761) >>> 24),
    width,
    height,
  };
  const stream = model.stream(
    [
      {
        role: "user",
        content: [
          { type: "image", image },
          { type: "text", text: "Read." },
        ],
      },
    ],
    { max_new_tokens: 3, ignore_eos: true },
  );
  await stream.text();
  report(`prompt of ${stream.run.counts.prompt} tokens`);
}
