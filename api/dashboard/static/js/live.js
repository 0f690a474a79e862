// While accounts are being read the numbers follow by themselves: the server says when, by server-sent events.
// Nothing is asked for while the page is hidden. Where the server can't say, the page asks once a minute.

import { renew, renewedAt } from "./renew.js";

const LOOK_MS = 60_000;
const RETRY_MS = 10_000;
const DONE_MS = 8_000;
const number = new Intl.NumberFormat();

let listening; // an AbortController while the page is seen
let hasBegun = false;

export function start() {
  const attend = () => (document.hidden ? stop() : begin());
  document.addEventListener("visibilitychange", attend);
  addEventListener("pagehide", stop); // the browser may keep a page only that waits for nothing
  addEventListener("pageshow", ({ persisted }) => persisted && attend());
  attend();
}

function stop() {
  listening?.abort();
  listening = undefined;
}

async function begin() {
  if (listening) return;
  const own = (listening = new AbortController());
  while (!own.signal.aborted) {
    if (Date.now() - renewedAt() >= LOOK_MS) await renew();
    const wait_ms = await listen(own.signal);
    if (wait_ms === null) return;
    await pause(wait_ms, own.signal);
  }
}

// Follow one stream to its end. Return after how long to ask again, null for never.
async function listen(signal) {
  const tag = document.getElementById("main").dataset.tag;
  try {
    const answer = await fetch(`/api/live?${new URLSearchParams({ tag })}`, { signal, headers: { Accept: "text/event-stream" } });
    if (answer.status === 503) {
      note("Live updates are not to be had at the moment: the numbers are looked up once a minute.");
      return LOOK_MS;
    }
    if (!answer.ok) return null;
    for await (const event of events(answer.body)) {
      if (event.name === "changed") renew();
      else if (event.name === "progress") tell(event.data);
      else if (event.name === "idle") {
        over(event.data);
        return LOOK_MS;
      }
    }
    return Math.random() * 2_000; // it has had its time: not all pages ask again at once
  } catch {
    if (signal.aborted) return null;
    note("");
    renew(); // which says so, if the network is away
    return RETRY_MS;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      const fields = Object.fromEntries(message.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event) yield { name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}

function tell({ wanted, done }) {
  if (done >= wanted) return;
  note(`Reading accounts: ${number.format(done)} of ${number.format(wanted)} readings done`, done / wanted);
  if (hasBegun) return;
  hasBegun = true;
  say("Accounts are being read. The numbers of this page follow by themselves.");
}

function over({ wanted }) {
  if (!hasBegun) return note("");
  hasBegun = false;
  note(`All ${number.format(wanted)} readings are done`, 1);
  say("The accounts have been read.");
  setTimeout(() => hasBegun || note(""), DONE_MS);
}

// Show a line in the corner, over the page: nothing moves for it.
function note(text, share = null) {
  const place = document.querySelector("[data-live-note]");
  place.hidden = text === "";
  place.querySelector("[data-live-text]").textContent = text;
  const bar = place.querySelector("progress");
  bar.hidden = share === null;
  bar.value = share ?? 0;
}

function say(text) {
  document.querySelector("[data-live-said]").textContent = text;
}
