/** The page that is asked about, and the boxes on it. */

import type { Region } from "qvl-runtime";
import { byId, make, say } from "./dom.js";

const COLORS = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#c2570c", "#0f7f8c", "#8c564b", "#c2449b"];

/** A file, and its size in pixels. */
export interface Picture {
  file: Blob;
  title: string;
  width: number;
  height: number;
}

export let picture: Picture | null = null;
let opening = 0;

/** Shows an image file. */
export async function openPicture(file: File): Promise<void> {
  const mine = ++opening; // a file that was chosen later wins
  const image = byId<HTMLImageElement>("picture");
  const url = URL.createObjectURL(file);
  try {
    const probe = new Image();
    probe.src = url;
    await probe.decode();
    if (mine !== opening) return;
    URL.revokeObjectURL(image.src);
    image.src = url;
    picture = { file, title: file.name || "pasted image", width: probe.naturalWidth, height: probe.naturalHeight };
  } catch {
    if (mine === opening) say("This file is not an image that this browser shows.");
    return;
  }
  byId("drop").hidden = true;
  byId("page").hidden = false;
  byId("zoom").hidden = false;
  byId("name").textContent = picture.title;
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
