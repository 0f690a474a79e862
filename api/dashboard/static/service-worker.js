// Keeps the static files, and the pages seen last for when the network is away. While it isn't, pages come from it alone.

// What the server puts before this file: a version that changes with any static file, where they are, and which there are.
const { version, files } = self.told;
const statics = new URL(self.told.statics, location.href).href;
const FILES = `rollcall-files-${version}`;
const PAGES = `rollcall-pages-${version}`;
const NOT_THERE = "/offline";
// So many pages and charts are kept, none that is larger, and none for longer.
const MOST = 60;
const LARGEST_BYTES = 2_000_000;
const LONGEST_MS = 7 * 86_400_000;
// Of one person alone, of this moment alone, or kept already.
const NEVER = /^\/(api|sign-in|sign-out|session|static|metrics|healthz|readyz)(\/|$)/;
const PERSON = /^\/sign-(in|out)$/;
// An answer that began before a person went may come after it.
const LATE_MS = 3_000;

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
let forgotten = 0;

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(FILES);
    await cache.addAll([...files.map(asFile), new Request(NOT_THERE, { cache: "no-cache" })]);
    await self.skipWaiting();
  })());
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith("rollcall-") && name !== FILES && name !== PAGES);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.registration.navigationPreload?.enable();
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.url.startsWith(statics)) {
    event.respondWith(file(request.url));
  } else if (url.origin !== location.origin) {
    return;
  } else if (request.method !== "GET") {
    if (PERSON.test(url.pathname)) event.waitUntil(forgetPerson());
  } else if (isPage(request, url)) {
    event.respondWith(page(event));
  }
});

// A page that was opened before this worker began says what it is made of.
self.addEventListener("message", (event) => {
  event.waitUntil(Promise.allSettled(event.data.map(async (address) => {
    if (address.startsWith(statics)) await file(address);
    else await keep(address, await fetch(address, { headers: { Accept: "text/html, application/json" } }), forgotten);
  })));
});

// By CORS, wherever they are: what came from another origin without it could not be told from an error.
function asFile(address) {
  return new Request(address, { mode: "cors", credentials: "omit" });
}

async function file(address) {
  const cache = await caches.open(FILES);
  const found = await cache.match(address, { ignoreVary: true });
  if (found) return found;
  const answer = await fetch(asFile(address));
  if (answer.ok) await cache.put(address, answer.clone());
  return answer;
}

function isPage(request, url) {
  if (NEVER.test(url.pathname)) return false;
  return request.mode === "navigate" || url.pathname.startsWith("/charts/") || (request.headers.get("Accept") ?? "").startsWith("text/html");
}

async function page(event) {
  const began = forgotten;
  let answer;
  try {
    answer = (await event.preloadResponse) ?? (await fetch(event.request));
  } catch {
    return (await kept(event.request.url)) ?? (event.request.mode === "navigate" ? notThere() : Response.error());
  }
  event.waitUntil(keep(event.request.url, answer.clone(), began));
  return answer;
}

async function keep(address, answer, began) {
  // Whoever read here before is not signed in any more.
  if (answer.type === "opaqueredirect" || answer.redirected || answer.status === 401) return forget();
  const says = (name) => answer.headers.get(name) ?? "";
  if (answer.status !== 200 || !/^(text\/html|application\/json)/.test(says("Content-Type")) || /no-store|^$/.test(says("Cache-Control"))) return;
  const body = await answer.blob();
  if (body.size > LARGEST_BYTES) return;
  const headers = new Headers(answer.headers);
  headers.set("X-Kept-At", new Date().toISOString());
  headers.delete("Content-Encoding"); // the body has been unpacked
  headers.delete("Content-Length");
  const cache = await caches.open(PAGES);
  if (began !== forgotten) return;
  await cache.delete(address, { ignoreVary: true }); // so that the newest are the last
  await cache.put(address, new Response(body, { headers }));
  const all = await cache.keys();
  for (const oldest of all.slice(0, Math.max(0, all.length - MOST))) await cache.delete(oldest, { ignoreVary: true });
}

async function kept(address) {
  const found = await (await caches.open(PAGES)).match(address, { ignoreVary: true });
  if (!found) return undefined;
  const at = new Date(found.headers.get("X-Kept-At"));
  if (Date.now() - at > LONGEST_MS) return undefined;
  if (!found.headers.get("Content-Type").startsWith("text/html")) return found;
  const said = `Offline: numbers from <time>${moment.format(at)}</time>.`;
  const text = (await found.text()).replace(/ hidden data-offline>/, ` data-offline="${at.toISOString()}">${said}`);
  return new Response(text, { headers: found.headers });
}

async function notThere() {
  const cache = await caches.open(FILES);
  const made = await cache.match(NOT_THERE, { ignoreVary: true });
  if (!made) return Response.error();
  const text = (await made.text()).replace("<ul data-kept></ul>", `<ul>${(await listed()).join("")}</ul>`);
  return new Response(text, { status: 503, statusText: "Offline", headers: made.headers });
}

// Each page that is kept, the newest first. Its title is as the page has it, and so escaped already.
async function listed() {
  const cache = await caches.open(PAGES);
  const items = [];
  for (const request of (await cache.keys()).reverse()) {
    const answer = await cache.match(request, { ignoreVary: true });
    const title = /<title>([^<]*) · Rollcall<\/title>/.exec(await answer.text())?.[1];
    const { pathname, search } = new URL(request.url);
    const address = `${pathname}${search}`.replace(/[&"<>]/g, (letter) => `&#${letter.charCodeAt(0)};`);
    if (title) items.push(`<li><a href="${address}">${title}</a> <span class="soft">${search ? address : ""} ${moment.format(new Date(answer.headers.get("X-Kept-At")))}</span></li>`);
  }
  return items;
}

async function forget() {
  forgotten += 1;
  await caches.delete(PAGES);
}

async function forgetPerson() {
  await forget();
  await new Promise((done) => setTimeout(done, LATE_MS));
  await forget();
}
