/** The bundle: chosen by its address or as a folder, loaded with progress, and forgotten. */

import { type BundleSource, forget, type LoadProgress, load, type Model } from "qvl-runtime";
import { byId, messageOf } from "./dom.js";

const LAST = "qvl-bundle";

export let model: Model | null = null;

/** `showDirectoryPicker` exists in Chromium alone. */
const picker = (globalThis as { showDirectoryPicker?: () => Promise<FileSystemDirectoryHandle> }).showDirectoryPicker;

/** Offers the bundle of the page's address (`?bundle=`), or the one of the last time. */
export function offerBundle(): void {
  const address = byId<HTMLInputElement>("address");
  const given = new URLSearchParams(location.search).get("bundle");
  address.value = given === null ? (localStorage.getItem(LAST) ?? "") : new URL(given, location.href).href;
  byId("folder").hidden = picker === undefined;
  byId("bundle").addEventListener("submit", (event) => {
    event.preventDefault();
    void open(address.value).then(() => model && localStorage.setItem(LAST, address.value));
  });
  byId("folder").addEventListener("click", async () => {
    const folder = await picker?.().catch(() => null); // the dialog was left
    if (folder) await open(folder);
  });
  byId("forget").addEventListener("click", () => void free(address.value).catch((error) => note(messageOf(error))));
  byId("other").addEventListener("click", () => showForm(true));
}

async function open(source: BundleSource): Promise<void> {
  const bar = byId<HTMLProgressElement>("progress");
  busy(true);
  note("Loading…");
  try {
    await model?.close();
    model = null;
    bar.value = 0;
    model = await load(source, { progress });
    const { family, target } = model.manifest;
    const threads = crossOriginIsolated ? "" : ", one thread until this page is opened again";
    byId("model").textContent = `${family}, ${target}${threads}`;
    note("");
    showForm(false);
    byId("question").focus();
  } catch (error) {
    note(messageOf(error));
  }
  busy(false);
}

function progress({ source, loaded, total }: LoadProgress): void {
  byId<HTMLProgressElement>("progress").value = loaded / total;
  const what = source === "kept" ? "Reading what this browser has kept" : "Downloading";
  note(loaded === total ? "Preparing…" : `${what}: ${megabytes(loaded)} of ${megabytes(total)} MB`);
}

function megabytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

async function free(address: string): Promise<void> {
  if (address === "") return note("Name the address of the bundle whose files are to be removed.");
  await forget(address);
  note("This browser keeps nothing of that bundle.");
}

function note(text: string): void {
  byId("note").textContent = text;
}

function busy(is: boolean): void {
  byId("progress").hidden = !is;
  for (const id of ["load", "folder", "forget"]) byId<HTMLButtonElement>(id).disabled = is;
  byId<HTMLButtonElement>("send").disabled = model === null;
}

function showForm(is: boolean): void {
  byId("bundle").hidden = !is;
  byId("other").hidden = is;
  if (is) byId("address").focus();
}
