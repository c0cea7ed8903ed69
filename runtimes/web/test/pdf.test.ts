/** Pages of PDFs are drawn in a worker of their own, within limits, and are images of messages. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { drawPage, load, type Message, Pdf, type Pixels, pdfPages } from "../src/index.js";
import { nestedForms, pdfOf, pdfSource, stream, transparencyGroups } from "./pdfs.js";

const COLORS = ["1 0 0 rg", "0 1 0 rg", "0 0 1 rg"].map((color) => `${color} 0 0 72 144 re f`);

/** The color of a pixel. */
function colorAt({ data, width }: Pixels, x: number, y: number): number[] {
  return [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 3)];
}

function dark({ data }: Pixels): number {
  let count = 0;
  for (let at = 0; at < data.length; at += 4) if (data[at] < 128) count++;
  return count;
}

for (const [pages, expected] of Object.entries({
  "": [0, 1, 2],
  "2": [1],
  "1-2": [0, 1],
  "3,1": [2, 0],
  " 2 - ": [1, 2],
})) {
  test(`pages ${pages || "of a whole file"} are drawn in their order`, async () => {
    const found = await pdfPages(pdfOf(COLORS), { dpi: 144, ...(pages ? { pages } : {}) });
    for (const [at, color] of expected.entries()) {
      const drawn = await drawPage(found[at]);
      assert.deepEqual([found[at].width, found[at].height, drawn.width, drawn.height], [144, 288, 144, 288]);
      assert.deepEqual(
        colorAt(drawn, 50, 50),
        [0, 1, 2].map((channel) => (channel === color ? 255 : 0)),
      );
    }
    assert.equal(found.length, expected.length);
  });
}

test("text in a font that is not embedded is drawn, on white", async () => {
  const [page] = await pdfPages(pdfOf(["BT /F 12 Tf 10 80 Td (Total: 12) Tj ET"], "[0 0 200 100]"));
  const drawn = await drawPage(page);
  assert.deepEqual([drawn.width, drawn.height, colorAt(drawn, 0, 0)], [417, 209, [255, 255, 255]]);
  const ink = dark(drawn);
  assert.ok(ink > 300 && ink < 2000, `${ink}`);
});

test("filled-in form fields are drawn", async () => {
  const source = pdfSource([
    "<</Type /Catalog /Pages 2 0 R /AcroForm <</Fields [4 0 R]>>>>",
    "<</Type /Pages /Kids [3 0 R] /Count 1>>",
    "<</Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Annots [4 0 R]>>",
    "<</Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /F 4 /Rect [0 0 100 100] /AP <</N 5 0 R>>>>",
    stream("0 0 0 rg 0 0 100 100 re f", "/Type /XObject /Subtype /Form /BBox [0 0 100 100]"),
  ]);
  const [page] = await pdfPages(source);
  assert.ok(colorAt(await drawPage(page), 100, 100)[0] < 128);
});

/** Boxes and entries of a page, and its size when it is drawn. */
const SIZES: [string, string, string, number, number][] = [
  ["turned", "[0 0 100 50.3]", "/Rotate 90", 105, 209],
  ["with a unit, which is left out", "[0 0 100 50.3]", "/UserUnit 3", 209, 105],
  ["larger than any screen", "[0 0 20000 20000]", "", 5793, 5793],
];

for (const [what, box, entries, width, height] of SIZES) {
  test(`a page ${what} knows its size`, async () => {
    const [page] = await pdfPages(pdfOf([""], box, entries));
    assert.deepEqual([page.width, page.height], [width, height]);
    const drawn = await drawPage(page);
    assert.deepEqual([drawn.width, drawn.height], [width, height]);
  });
}

const letter = pdfOf(COLORS);
const million = pdfSource([
  "<</Type /Catalog /Pages 2 0 R>>",
  "<</Type /Pages /Kids [3 0 R 4 0 R] /Count 1000000>>",
  "<</Type /Pages /Parent 2 0 R /Kids [4 0 R] /Count 999999>>",
  "<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9]>>",
]);
const side = `${"9".repeat(45)}.0`;
const REFUSED: [string, Uint8Array<ArrayBuffer>, object, RegExp][] = [
  [
    "no PDF",
    new TextEncoder().encode("%PDF-1.7 and nothing more"),
    {},
    /^a\.pdf: cannot be read as a PDF: .*\(is the file whole, /,
  ],
  ["a million pages", million, {}, /^a\.pdf: has 1000000 pages, more than 100000 \(split it\)$/],
  ["more pages than fit", pdfOf(Array(65).fill("")), {}, /65 pages, at most 64 fit a prompt \(choose some/],
  ["too many pixels", pdfOf(Array(9).fill("")), { dpi: 6000 }, /9 pages of \d+ pixels, at most 268435456 fit into mem/],
  ["a page without end", pdfOf([""], `[0 0 ${side} ${side}]`), {}, /page 1 has no size: Infinity × Infinity points/],
  ["no such page", letter, { pages: "4" }, /^a\.pdf: has 3 pages, got page 4$/],
  ["page 0", letter, { pages: "0" }, /^a\.pdf: there is no page 0 \(pages count from 1\)$/],
  ["pages backwards", letter, { pages: "3-2" }, /^a\.pdf: page range 3-2 is reversed$/],
  ["pages in words", letter, { pages: "all" }, /^a\.pdf: pages "all" must be numbers and ranges \(write "1-3,7"\)$/],
  ["a wrong dpi", letter, { dpi: 0 }, /^dpi must be a whole number >= 1, got 0$/],
  [
    "an unknown option",
    letter,
    { page: 1 },
    /^there is no option "page" \(there are limits, name, assets, pages, dpi\)$/,
  ],
  ["a path", "a.pdf" as never, {}, /cannot use "a.pdf" as a PDF \(give a File, a Blob, or the bytes of one\)/],
];

for (const [what, source, options, message] of REFUSED) {
  test(`${what} is refused in one line`, async () => {
    await assert.rejects(() => pdfPages(source, { name: "a.pdf", ...options }), { message });
  });
}

test("a page that a document does not have is refused in one line", async () => {
  const pdf = await Pdf.open(letter, { name: "a.pdf" });
  for (const index of [3, -1, 0.5]) {
    const message = `a.pdf: there is no page(${index}) (give 0 to 2)`;
    await assert.rejects(() => pdf.page(index), { name: "MediaError", message });
  }
});

const ATTACKS: [string, Uint8Array<ArrayBuffer>, object, RegExp][] = [
  ["time", nestedForms(), { seconds: 1 }, /^bad\.pdf: page 1 cannot be drawn: it takes longer than 1 s$/],
  [
    "memory",
    transparencyGroups(),
    { memory: 2 ** 28 },
    /page 1 cannot be drawn: it takes more than 256 MiB of memory$/,
  ],
];

for (const [what, source, limits, message] of ATTACKS) {
  test(`a page that takes too much ${what} is given up, and the next PDF is drawn`, async () => {
    const file = new File([source], "bad.pdf");
    const [page] = await pdfPages(file, { limits });
    await assert.rejects(() => drawPage(page), { name: "MediaError", message });
    const [next] = await pdfPages(letter);
    assert.deepEqual(colorAt(await drawPage(next), 9, 9), [255, 0, 0]);
  });
}

test("documents take turns", async () => {
  const sources = COLORS.map((color) => pdfOf([color]));
  const pages = (await Promise.all(sources.map((source) => pdfPages(source)))).flat();
  const drawn = await Promise.all([...pages, ...pages].map((page) => drawPage(page)));
  const brightest = drawn.map((each) => colorAt(each, 9, 9).indexOf(255));
  assert.deepEqual(brightest, [0, 1, 2, 0, 1, 2]);
});

test("a page is an image of a message, as its pixels are", async (context) => {
  const model = await load("../../tests/checkpoints/bundles/v1", { threads: 1 });
  context.after(() => model.close());
  const [page] = await pdfPages(pdfOf(["BT /F 24 Tf 10 80 Td (Total) Tj ET"], "[0 0 100 120]"));
  const messages = (image: typeof page | Pixels): Message[] => [{ role: "user", content: [{ type: "image", image }] }];
  const drawn = await drawPage(structuredClone(page)); // a worker gets a copy
  const [found] = (await model.prompt(messages(page))).placed;
  assert.deepEqual(
    { width: found.media.frames[0].width, height: found.media.frames[0].height },
    { width: page.width, height: page.height },
  );
  const expected = await model.logits(messages(drawn), "12");
  await model.clear();
  assert.deepEqual(await model.logits(messages(page), "12"), expected);
});
