// Loads what a page needs, when it needs it. Each page works without any of this.

// A chart's drawing and its data come when the chart comes into view.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    import("./chart.js").then(({ draw }) => draw(entry.target));
  }
}, { rootMargin: "200px" });

for (const figure of document.querySelectorAll("[data-chart]")) {
  const note = figure.querySelector("[data-plot-note]");
  note.textContent = "";
  figure.querySelector("[data-plot]").setAttribute("aria-busy", "true");
  seen.observe(figure);
}

// What a page names in data-module is a module of its own: code that only one page needs.
for (const part of document.querySelectorAll("[data-module]")) {
  import(`./${part.dataset.module}.js`).then(({ start }) => start(part));
}

import("./times.js").then(({ localise }) => localise(document));

const who = document.querySelector("[data-who]");
if (who) import("./session.js").then(({ show }) => show(who));
if (document.querySelector("[data-offline]")) import("./offline.js").then(({ start }) => start());
if (document.querySelector("#main[data-tag]") && document.querySelector("[data-live]")) import("./live.js").then(({ start }) => start());
