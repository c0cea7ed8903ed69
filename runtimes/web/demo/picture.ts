/** The page that is asked about, and the boxes on it. */

import { type ImageSource, QvlError, type Region } from "qvl-runtime";
import { byId, make, say } from "./dom.js";
import { openPdf } from "./pdf.js";

const COLORS = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#c2570c", "#0f7f8c", "#8c564b", "#c2449b"];

/** An image as the model takes it, and its size in pixels. */
export interface Picture {
  image: ImageSource;
  title: string;
  width: number;
  height: number;
}

export let picture: Picture | null = null;
let opening = 0;

/** Shows an image file, or a page of a PDF. */
export async function openPicture(file: File): Promise<void> {
  const title = file.name || "pasted image";
  const isPdf = file.type === "application/pdf" || title.toLowerCase().endsWith(".pdf");
  const mine = ++opening;
  if (isPdf) return openPdf(file, () => mine === opening, show);
  byId("pages").hidden = true;
  await show(title, async () => ({ image: file, seen: file }));
}

interface Shown {
  image: ImageSource;
  /** What the page shows of it. */
  seen: Blob;
}

/** Shows what `make` gives, unless something else was opened meanwhile. */
async function show(title: string, make: () => Promise<Shown>): Promise<void> {
  const mine = ++opening; // what was chosen later wins
  try {
    const { image, seen } = await make();
    const url = URL.createObjectURL(seen);
    const probe = new Image();
    probe.src = url;
    await probe.decode();
    if (mine !== opening) return URL.revokeObjectURL(url);
    const element = byId<HTMLImageElement>("picture");
    URL.revokeObjectURL(element.src);
    element.src = url;
    picture = { image, title, width: probe.naturalWidth, height: probe.naturalHeight };
  } catch (error) {
    const problem = error instanceof QvlError ? error.message : "This file is not an image that this browser shows.";
    if (mine === opening) say(problem);
    return;
  }
  byId("drop").hidden = true;
  byId("page").hidden = false;
  byId("zoom").hidden = false;
  byId("name").textContent = title;
  say("");
  drawRegions([]);
  byId("question").focus();
}

/** Draws boxes and points; the one at `lit` stands out. */
export function drawRegions(regions: readonly Region[], lit = -1): void {
  byId("regions").replaceChildren(...regions.map((region, index) => drawn(regions, region, index === lit)));
}

function drawn(regions: readonly Region[], region: Region, lit: boolean): HTMLElement {
  const { width, height } = picture!;
  const point = "x" in region;
  const box = make("div", point ? "region point" : "region");
  box.style.left = share(point ? region.x : region.x1, width);
  box.style.top = share(point ? region.y : region.y1, height);
  if (!point) {
    box.style.width = share(region.x2 - region.x1, width);
    box.style.height = share(region.y2 - region.y1, height);
  }
  const color = colorOf(regions, region);
  box.style.color = color;
  box.style.borderColor = color;
  box.classList.toggle("lit", lit);
  if (region.label !== "") {
    const label = make("span");
    label.style.background = color;
    label.append(make("b", "", region.label));
    box.append(label);
  }
  return box;
}

function share(value: number, side: number): string {
  return `${(100 * value) / side}%`;
}

/** One color for each label. */
export function colorOf(regions: readonly Region[], region: Region): string {
  const labels = [...new Set(regions.map(({ label }) => label))];
  return COLORS[labels.indexOf(region.label) % COLORS.length];
}
