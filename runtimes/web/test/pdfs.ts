/** Small PDFs, as `tests/pdfs.py` makes them. */

/** A PDF of these objects, the first of which is the catalog. */
export function pdfSource(objects: readonly string[]): Uint8Array<ArrayBuffer> {
  let body = "%PDF-1.7\n";
  const offsets = objects.map((content, at) => {
    const offset = body.length;
    body += `${at + 1} 0 obj\n${content}\nendobj\n`;
    return offset;
  });
  const size = objects.length + 1;
  const table = offsets.map((offset) => `${String(offset).padStart(10, "0")} 00000 n \n`).join("");
  const end = `xref\n0 ${size}\n0000000000 65535 f \n${table}trailer <</Size ${size} /Root 1 0 R>>\n`;
  return new TextEncoder().encode(`${body}${end}startxref\n${body.length}\n%%EOF`);
}

export function stream(content: string, entries = ""): string {
  return `<<${entries} /Length ${content.length}>>\nstream\n${content}\nendstream`;
}

/** A page for each text of drawing operators, of a size and with further entries; /F is Helvetica, which is not embedded. */
export function pdfOf(contents: readonly string[], box = "[0 0 72 144]", entries = ""): Uint8Array<ArrayBuffer> {
  const kids = contents.map((_, at) => `${4 + 2 * at} 0 R`).join(" ");
  const pages = contents.flatMap((content, at) => [
    `<</Type /Page /Parent 2 0 R /MediaBox ${box} /Contents ${5 + 2 * at} 0 R ${entries}
     /Resources <</Font <</F 3 0 R>>>>>>`,
    stream(content),
  ]);
  return pdfSource([
    "<</Type /Catalog /Pages 2 0 R>>",
    `<</Type /Pages /Kids [${kids}] /Count ${contents.length}>>`,
    "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ...pages,
  ]);
}

/** Forms that show the next one ten times, which shows the next one ten times: small, and without end. */
export function nestedForms(levels = 12): Uint8Array<ArrayBuffer> {
  const forms = Array.from({ length: levels + 1 }, (_, level) => {
    const next = level < levels ? `/Resources <</XObject <</X ${6 + level} 0 R>>>>` : "";
    const shown = level < levels ? "/X Do ".repeat(10) : "0 0 1 1 re f";
    return stream(shown, `/Type /XObject /Subtype /Form /BBox [0 0 600 800] ${next}`);
  });
  return pdfSource([
    "<</Type /Catalog /Pages 2 0 R>>",
    "<</Type /Pages /Kids [3 0 R] /Count 1>>",
    `<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources <</XObject <</X 5 0 R>>>>>>`,
    stream("/X Do"),
    ...forms,
  ]);
}

/** As many half-transparent groups as large as the page, one after another. */
export function transparencyGroups(count = 3000): Uint8Array<ArrayBuffer> {
  const group =
    "/Type /XObject /Subtype /Form /BBox [0 0 600 800] /Group <</S /Transparency /I true>> " +
    "/Resources <</ExtGState <</G 6 0 R>>>>";
  return pdfSource([
    "<</Type /Catalog /Pages 2 0 R>>",
    "<</Type /Pages /Kids [3 0 R] /Count 1>>",
    "<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R " +
      "/Resources <</XObject <</X 5 0 R>> /ExtGState <</G 6 0 R>>>>>>",
    stream(`/G gs ${"/X Do ".repeat(count)}`),
    stream("/G gs 0 0 600 800 re f", group),
    "<</Type /ExtGState /ca 0.5 /BM /Multiply>>",
  ]);
}
