// Tell the numbers at the pointer.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { unit, time, x: [first, last], left, right, xUnit, lines } = JSON.parse(svg.dataset.chart);
  const here = svg.querySelector(".here");
  const output = svg.closest("figure").querySelector("output");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const x = first + (Math.min(Math.max(at, left), right) - left) / (right - left) * (last - first);
    const said = lines.map(({ name, points }) => {
      const [, value] = points.reduce((best, one) => (Math.abs(one[0] - x) < Math.abs(best[0] - x) ? one : best), [Infinity, null]);
      return value === null ? "" : `${name} ${value}`;
    });
    const moment = time ? `${Math.floor(x / 60)}:${String(Math.floor(x % 60)).padStart(2, "0")}` : `${Math.round(x)} ${xUnit}`;
    output.textContent = `${moment} · ${said.filter(Boolean).join(" · ")} ${unit}`;
    here.setAttribute("x1", at);
    here.setAttribute("x2", at);
    here.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerleave", () => {
    output.textContent = "";
    here.setAttribute("visibility", "hidden");
  });
}
