/** The worker of PDFs when it ends by itself, and what is sent to it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { drawPage, pdfPages } from "../src/index.js";
import { loadImage } from "../src/media/images.js";
import { pdfOf } from "./pdfs.js";

const LETTER = pdfOf(["1 0 0 rg 0 0 72 144 re f"]);

test("a worker that ended by itself is replaced", async (context) => {
  const [page] = await pdfPages(LETTER);
  const posted = context.mock.method(Worker.prototype, "postMessage");
  await drawPage(page);
  await (posted.mock.calls[0].this as Worker).terminate();
  assert.deepEqual([...(await drawPage(page)).data.slice(0, 3)], [255, 0, 0]);
});

test("what only resembles a page of a PDF is no image", async () => {
  const [{ limits, ...page }] = await pdfPages(LETTER);
  for (const image of [page, { ...page, limits, pdf: null }, { pdf: { content: "%PDF" }, limits }]) {
    await assert.rejects(() => loadImage(image as never), { name: "MediaError" });
  }
});
