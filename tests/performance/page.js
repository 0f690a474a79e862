// Tell the numbers at the pointer.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { unit, time, x: [first, last], left, right, xUnit, logX, lines } = JSON.parse(svg.dataset.chart);
  const away = (one, x) => Math.abs(logX ? Math.log(one / x) : one - x);
  const here = svg.querySelector(".here");
  const output = svg.closest("figure").querySelector("output");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const part = (Math.min(Math.max(at, left), right) - left) / (right - left);
    const x = logX ? first * (last / first) ** part : first + part * (last - first);
    const said = lines.map(({ name, points }) => {
      const [, value] = points.reduce((best, one) => (away(one[0], x) < away(best[0], x) ? one : best), [Infinity, null]);
      return value === null ? "" : `${name} ${value}`;
    });
    const moment = time ? `${Math.floor(x / 60)}:${String(Math.floor(x % 60)).padStart(2, "0")}` : `${Math.round(x).toLocaleString("en")} ${xUnit}`;
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
