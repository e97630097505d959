// Keeps a copy of the whole folder, from which the page runs when its web server cannot be reached. While it can, all comes from
// the server, so that a newer page is never hidden behind an older copy.

const FILES = {{ files | tojson }};
const PREFIX = `${registration.scope}#`; // caches are shared by all pages of a host
const CACHE = `${PREFIX}{{ version }}`;

async function save() {
  const cache = await caches.open(CACHE);
  await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
  await skipWaiting();
}

async function forgetOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(PREFIX) && name !== CACHE).map((name) => caches.delete(name)));
}

async function answer(request) {
  try {
    return await fetch(request, { cache: "no-cache" }); // asks whether the browser's copy is still the newest
  } catch {
    return (await caches.match(request, { cacheName: CACHE })) ?? Response.error();
  }
}

addEventListener("install", (event) => event.waitUntil(save()));
addEventListener("activate", (event) => event.waitUntil(forgetOthers()));
addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && event.request.url.startsWith(registration.scope)) event.respondWith(answer(event.request));
});
