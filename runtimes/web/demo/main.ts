/** The demo page: a bundle, a page, questions. */

import { model, offerBundle } from "./bundle.js";
import { byId, say } from "./dom.js";
import { openPicture } from "./picture.js";
import { ask, clear, stop } from "./talk.js";

function send(): void {
  if (model === null) say("Load a bundle first.");
  else void ask(model);
}

function openFirst(files: FileList | null | undefined): boolean {
  const file = files?.[0];
  if (file !== undefined) void openPicture(file);
  return file !== undefined;
}

byId<HTMLInputElement>("file").addEventListener("change", (event) => {
  const input = event.target as HTMLInputElement;
  openFirst(input.files);
  input.value = ""; // the same file may be chosen again
});
byId("zoom").addEventListener("click", () => {
  const fits = byId("page").classList.toggle("fits");
  byId("zoom").setAttribute("aria-pressed", String(!fits));
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", stop);
byId("clear").addEventListener("click", clear);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
addEventListener("paste", (event) => {
  if (openFirst(event.clipboardData?.files)) event.preventDefault();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  openFirst(event.dataTransfer?.files);
});

offerBundle();
if (import.meta.env.PROD) void navigator.serviceWorker?.register("./service_worker.js");
