// Without the network: what was seen last is still there (service-worker.js), and says how old it is.

import { away, renew } from "./renew.js";

// A network that has just come back isn't ready yet, or goes again.
const BACK_MS = 1_000;

export function start() {
  addEventListener("offline", away);
  addEventListener("online", () => setTimeout(back, BACK_MS));
  if (!navigator.serviceWorker) return; // such as by plain http
  const isNew = !navigator.serviceWorker.controller;
  const register = async () => {
    await navigator.serviceWorker.register("/service-worker.js").catch(() => {}); // it is a convenience
    if (!isNew) return;
    const { active } = await navigator.serviceWorker.ready;
    const tell = (names) => active.postMessage(names.filter((name) => name === location.href || name.includes("/static/") || name.includes("/charts/")));
    tell([location.href]);
    // What was loaded before it began, or just then: it hasn't seen these.
    new PerformanceObserver((list) => tell(list.getEntries().filter(({ workerStart }) => !workerStart).map(({ name }) => name)))
      .observe({ type: "resource", buffered: true });
  };
  // What the page itself needs goes first.
  if (document.readyState === "complete") register();
  else addEventListener("load", register);
}

function back() {
  if (!navigator.onLine || document.querySelector("[data-offline]").hidden) return;
  if (document.querySelector("[data-live]")) renew();
  else location.reload();
}
