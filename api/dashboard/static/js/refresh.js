// "Refresh now": says at once that a reading is on its way, follows its job, and shows the new numbers in their place.
// What goes wrong takes that back and says why. Without this the form leads to a page that tells the same.

import { session } from "./session.js";

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 2_000;
// So long nothing may begin to read it, or Rollcall be out of reach, before the page no longer promises anything.
const PATIENCE_MS = 20_000;
// And so long it looks on, more rarely, in case that it is read after all.
const LOOKS_ON_MS = 10 * 60_000;

class Refused extends Error {}

export function start(place) {
  const form = place.querySelector("form");
  const button = form.querySelector("button");
  const line = place.querySelector("[data-asked]");
  const usual = button.textContent;
  let turn = 0;

  const say = (text, isBad = false) => {
    line.textContent = text;
    line.classList.toggle("error", isBad);
  };
  const isOnItsWay = (yes) => {
    button.setAttribute("aria-disabled", String(yes));
    button.textContent = yes ? "Reading…" : usual;
    for (const part of document.querySelectorAll("[data-renewed]")) part.setAttribute("aria-busy", String(yes));
  };

  const follow = async (job, mine) => {
    const began = Date.now();
    let heard = began;
    let isPromised = true;
    for (let wait = FIRST_WAIT_MS; mine === turn && Date.now() - began < LOOKS_ON_MS; wait = Math.min(wait * 1.5, LONGEST_WAIT_MS)) {
      const state = await look(job, place.dataset.key);
      if (mine !== turn) return;
      if (state) heard = Date.now();
      if (state?.isOver) {
        const isShown = await renew(job);
        isOnItsWay(false);
        if (state.reason) say(`It couldn't be read: ${state.reason}.`, true);
        else say(isShown ? "Read just now." : "Read just now. Load the page anew to see it.");
        return;
      }
      if (isPromised && state?.isRunning) say("It is being read now.");
      if (isPromised && state && !state.isRunning) say("Asked for: it waits for its turn.");
      const isLate = !state?.isRunning && Date.now() - (state ? began : heard) >= PATIENCE_MS;
      if (isPromised && isLate) {
        isPromised = false;
        isOnItsWay(false);
        say(state ? "Nothing has begun to read it yet: no reader is free, or none runs. It stays asked for." : "Rollcall can't be reached. What was asked for stays asked for.", true);
      }
      await new Promise((resolve) => setTimeout(resolve, isPromised ? wait : 3 * LONGEST_WAIT_MS));
    }
    if (mine !== turn || !isPromised) return;
    isOnItsWay(false);
    say("It is still being read. This page no longer waits for it.");
  };

  const ask = async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    const mine = ++turn;
    isOnItsWay(true);
    say("Asking for a reading…");
    try {
      const job = await asked(place.dataset.account);
      const here = `${location.pathname}${location.search}#refresh`;
      if (job === null) location.assign(`/sign-in?${new URLSearchParams({ next: here })}`);
      else await follow(job, mine);
    } catch (error) {
      if (mine !== turn) return;
      isOnItsWay(false);
      say(error instanceof Refused ? error.message : navigator.onLine ? "Rollcall can't be reached; try again." : "You are offline; nothing was asked for.", true);
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  if (place.dataset.job && place.querySelector("[data-asked] a")) {
    isOnItsWay(true);
    follow(place.dataset.job, ++turn);
  }
  session().then(({ name, scopes }) => {
    if (name !== null && scopes.includes("admin")) place.querySelector("[data-edit]").textContent = "Edit";
  });
}

// Ask for a reading; return its job, null for who has yet to sign in. Throws Refused with the reason.
async function asked(account) {
  if ((await session()).name === null) return null;
  const answer = await fetch("/api/refresh", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify({ accounts: [account] }),
  });
  if (answer.status === 401) return null;
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(said.detail ?? `Rollcall answered with ${answer.status}.`);
  if (said.jobs.length === 0) throw new Refused("It was paused this moment.");
  return said.jobs[0].job_id;
}

// Return how a job stands, with the reason why it brought no numbers of this account; null where that can't be heard now.
async function look(job, key) {
  const answer = await fetch(`/api/jobs/${job}`, { headers: { Accept: "application/json" } }).catch(() => null);
  if (answer?.status === 404) return { isOver: true, reason: "its job is gone" };
  if (!answer?.ok) return null;
  const { state, reason, accounts } = await answer.json();
  if (state === "queued" || state === "running") return { isRunning: state === "running" };
  const own = accounts.find((account) => String(account.account_key) === key);
  return { isOver: true, reason: own?.result === "ok" ? null : own?.reason ?? reason ?? "nobody said why" };
}

// Put what the account's page says now in the place of what it said: asked for with the job, it is of this moment.
// Return whether it could be asked for.
async function renew(job) {
  const query = new URLSearchParams(location.search);
  query.set("job", job);
  const answer = await fetch(`${location.pathname}?${query}`, { headers: { Accept: "text/html" } }).catch(() => null);
  if (!answer?.ok) return false;
  const made = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-renewed]")) {
    const successor = made.querySelector(`[data-renewed="${part.dataset.renewed}"]`);
    if (successor) part.replaceWith(document.adoptNode(successor));
  }
  const { localise } = await import("./times.js");
  for (const part of document.querySelectorAll("[data-renewed]")) localise(part);
  const chart = document.querySelector("[data-renewed] > [data-chart]");
  if (chart) await import("./chart.js").then(({ draw }) => draw(chart));
  return true;
}
