// Brings the numbers of a page up to date: fetches it again, and changes what differs where it stands.
// Focus, scrolling, open details and half-written forms stay as they are.

import { localise } from "./times.js";

const AGAIN_MS = 2_500;
const MOST_AGAIN = 3;
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

let newest = new Date();
let running;
let isWanted = false;

// When the numbers that the page shows were fetched.
export function renewedAt() {
  return newest;
}

// Return whether the page is up to date now. Several calls at once are one, and one more behind it.
export function renew() {
  if (running) {
    isWanted = true;
    return running;
  }
  running = attempt().finally(() => {
    running = undefined;
    if (isWanted) {
      isWanted = false;
      renew();
    }
  });
  return running;
}

async function attempt() {
  for (let turn = 0; turn < MOST_AGAIN; turn += 1) {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-cache" }).catch(() => null);
    if (!answer || answer.headers.has("X-Kept-At")) {
      away();
      return false;
    }
    if (!answer.ok || answer.redirected) return false;
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    newest = new Date();
    document.querySelector("[data-offline]").hidden = true;
    // Lists may be as old as two seconds while many change: the next answer has what this one lacks.
    if (answer.headers.get("X-Cache") !== "stale") return true;
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
  return true;
}

// Say that the network is away, and from when the numbers are.
export function away() {
  const note = document.querySelector("[data-offline]");
  if (!note.hidden) return;
  const time = document.createElement("time");
  time.dateTime = newest.toISOString();
  time.textContent = moment.format(newest);
  note.replaceChildren("Offline: numbers from ", time, ".");
  note.hidden = false;
}

function show(page) {
  localise(page);
  const active = document.activeElement;
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.querySelector(`[data-live="${region.dataset.live}"]`);
    if (fresh) become(region, fresh);
  }
  if (active !== document.activeElement && active.isConnected) active.focus({ preventScroll: true });
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const fresh = page.getElementById(figure.id);
    if (fresh) figure.dispatchEvent(new CustomEvent("renew", { detail: fresh.dataset.chart }));
  }
}

function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}

// What has a key keeps its element wherever it goes; everything else keeps its place.
function children(old, fresh) {
  const keyed = new Map([...old.children].filter(({ dataset }) => dataset.key).map((child) => [child.dataset.key, child]));
  let at = old.firstChild;
  for (const wanted of fresh.childNodes) {
    const mine = wanted.dataset?.key ? keyed.get(wanted.dataset.key) : at;
    if (!mine || !alike(mine, wanted)) {
      old.insertBefore(document.importNode(wanted, true), at);
      continue;
    }
    if (mine === at) at = at.nextSibling;
    else old.insertBefore(mine, at);
    become(mine, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(old, fresh) {
  return old.nodeName === fresh.nodeName && old.dataset?.key === fresh.dataset?.key;
}
