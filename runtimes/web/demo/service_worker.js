/**
 * Keeps the page's own files, so that it opens without a network, and gives them the headers with which a page may use
 * several threads. Bundles are kept by the runtime. The build replaces the list of files and the version.
 */

const FILES = ["__FILES__"];
const CACHE = "qvl-demo __VERSION__";
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
  self.skipWaiting();
});

addEventListener("activate", (event) => {
  event.waitUntil(removeOthers().then(() => self.clients.claim()));
});

async function removeOthers() {
  const old = (await caches.keys()).filter((name) => name.startsWith("qvl-demo ") && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
}

addEventListener("fetch", (event) => {
  const { url, method } = event.request;
  const address = url.split(/[?#]/)[0];
  const own = FILES.some((file) => new URL(file, self.location.href).href === address);
  if (own && method === "GET") event.respondWith(answered(address));
});

async function answered(address) {
  const cache = await caches.open(CACHE);
  const found = (await cache.match(address)) ?? (await fetch(address));
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(found.body, { status: found.status, headers });
}
