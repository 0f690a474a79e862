// Draws a chart with uPlot: gaps are gaps, shaded with their reason; the cursor goes by keyboard; colour never alone.

const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [5, 5], [2, 4], [12, 4], [4, 2, 1, 2]];
const DAY = 86_400;
const LOOKS = ["(prefers-color-scheme: dark)", "(forced-colors: active)", "print"];
// Steps between two dates of the axis; uPlot knows 30 and 365 days as months and years.
const STEPS = [1, 2, 4, 7, 14, 21, 30, 60, 90, 180, 365, 730, 1825].map((days) => days * DAY);
const number = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 2 });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const ticks = {
  day: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" }),
  month: new Intl.DateTimeFormat(undefined, { month: "short", year: "numeric", timeZone: "UTC" }),
  year: new Intl.DateTimeFormat(undefined, { year: "numeric", timeZone: "UTC" }),
};

let loading;

// The vendored file is a classic script that makes one global: it is loaded once, with its style sheet.
function uPlotLoaded() {
  loading ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("../vendor/uplot/uPlot.min.css", import.meta.url);
    const script = document.createElement("script");
    script.src = new URL("../vendor/uplot/uPlot.iife.min.js", import.meta.url);
    script.onload = () => resolve(window.uPlot);
    script.onerror = reject;
    document.head.append(style, script);
  });
  return loading;
}

// Draw one figure. Its data: {dates: [], series: [{name, values}], gaps: [{from, to, reason}], notes: [{from, to, note}], unit}.
export async function draw(figure) {
  const plot = figure.querySelector("[data-plot]");
  try {
    const [uPlot, answer] = await Promise.all([uPlotLoaded(), fetch(figure.dataset.chart, { headers: { Accept: "application/json" } })]);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const data = await answer.json();
    let chart = show(uPlot, figure, plot, data);
    asTable(figure, data);
    const redraw = () => {
      chart.destroy();
      chart = show(uPlot, figure, plot, data);
    };
    // Colours are part of the drawing.
    for (const look of LOOKS) matchMedia(look).addEventListener("change", redraw);
    figure.addEventListener("renew", ({ detail }) => renew(figure, plot, data, detail, redraw));
  } catch (error) {
    plot.querySelector("[data-plot-note]").textContent = "The chart can't be loaded at the moment; the numbers stand in the table.";
  } finally {
    plot.removeAttribute("aria-busy");
  }
}

// Draw the same figure with what its numbers are now.
async function renew(figure, plot, data, address, redraw) {
  figure.dataset.chart = address;
  const answer = await fetch(address, { headers: { Accept: "application/json" } }).catch(() => null);
  if (!answer?.ok || answer.headers.has("X-Kept-At")) return;
  const text = await answer.text();
  if (text === JSON.stringify(data)) return;
  Object.assign(data, JSON.parse(text));
  redraw();
  const place = figure.querySelector("[data-table]");
  if (place.firstChild) place.replaceChildren(table(data));
}

function show(uPlot, figure, plot, data) {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  const times = data.dates.map((date) => Date.parse(`${date}T00:00:00Z`) / 1000);
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid") } };
  const options = {
    width: plot.clientWidth,
    height: plot.clientHeight,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: true } },
    axes: [{ ...axis, space: 72, incrs: STEPS, values: (_, seconds, __, ___, step) => dates(seconds, step) }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => short.format(tick)) }],
    series: [{}, ...data.series.map((one, index) => ({
      label: one.name,
      stroke: colour(`--s${(index % 8) + 1}`),
      width: 2,
      dash: DASHES[index % DASHES.length],
      spanGaps: false,
      points: { show: data.dates.length < 40, size: 5 },
    }))],
    hooks: {
      drawClear: [(chart) => shade(chart, data, colour)],
      setCursor: [(chart) => tell(figure, data, chart.cursor.idx)],
      destroy: [() => resized.disconnect()],
    },
  };
  plot.replaceChildren();
  const chart = new uPlot(options, [times, ...data.series.map((one) => one.values)], plot);
  legend(figure, data);
  byKeyboard(figure, plot, chart, data);
  const resized = new ResizeObserver(() => {
    const [width, height] = [plot.clientWidth, plot.clientHeight];
    // It is told of the size at once, as it is: to draw for that again would be half of all the work.
    if (width !== chart.width || height !== chart.height) chart.setSize({ width, height });
  });
  resized.observe(plot);
  figure.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  return chart;
}

function dates(seconds, step) {
  const format = step >= 360 * DAY ? ticks.year : step >= 28 * DAY ? ticks.month : ticks.day;
  return seconds.map((at) => format.format(new Date(at * 1000)));
}

// Days without a number are shaded, notes are lines: nothing joins the days around a gap.
function shade(chart, data, colour) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.fillStyle = colour("--gap");
  for (const gap of data.gaps ?? []) {
    const left = chart.valToPos(Date.parse(gap.from) / 1000 - DAY / 2, "x", true);
    const right = chart.valToPos(Date.parse(gap.to) / 1000 + DAY / 2, "x", true);
    const from = Math.max(left, bbox.left);
    ctx.fillRect(from, bbox.top, Math.min(right, bbox.left + bbox.width) - from, bbox.height);
  }
  ctx.strokeStyle = colour("--soft");
  ctx.setLineDash([3, 3]);
  for (const note of data.notes ?? []) {
    const at = chart.valToPos(Date.parse(note.from) / 1000, "x", true);
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function tell(figure, data, index) {
  const line = figure.querySelector("[data-cursor]");
  if (index == null) {
    line.textContent = "";
    return;
  }
  const date = data.dates[index];
  const within = (one) => one.from <= date && date <= one.to;
  const said = data.series.map((one) => {
    const value = one.values[index];
    const name = data.series.length > 1 ? `${one.name}: ` : "";
    const unit = data.unit && value != null ? ` ${data.unit}` : "";
    return name + (value == null ? "no number" : number.format(value)) + unit;
  });
  const reasons = (data.gaps ?? []).filter(within).map((gap) => gap.reason);
  const notes = (data.notes ?? []).filter(within).map((note) => note.note);
  line.textContent = [day.format(new Date(date)), said.join(", "), ...reasons, ...notes].join(" · ");
}

// The names stand there already, and room for the lines before them.
function legend(figure, data) {
  const list = figure.querySelector("[data-legend]");
  if (!list) return;
  const css = getComputedStyle(document.documentElement);
  list.replaceChildren(...data.series.map((one, index) => {
    const item = document.createElement("li");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ width: 26, height: 10, "aria-hidden": true })) svg.setAttribute(name, value);
    const drawn = { x1: 1, x2: 25, y1: 5, y2: 5, stroke: css.getPropertyValue(`--s${(index % 8) + 1}`), "stroke-width": 2.5, "stroke-dasharray": DASHES[index % DASHES.length].join(" ") };
    for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
    svg.append(line);
    item.append(svg, one.name);
    return item;
  }));
}

function byKeyboard(figure, plot, chart, data) {
  plot.tabIndex = 0;
  plot.setAttribute("role", "application");
  plot.setAttribute("aria-roledescription", "chart");
  plot.setAttribute("aria-label", `${figure.querySelector(".chart-title").textContent}: left and right arrow go from day to day`);
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -Infinity, End: Infinity };
  plot.onkeydown = (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    const last = data.dates.length - 1;
    const index = Math.min(last, Math.max(0, (chart.cursor.idx ?? (steps[event.key] > 0 ? -1 : last + 1)) + steps[event.key]));
    chart.setCursor({ left: chart.valToPos(chart.data[0][index], "x"), top: 0 });
  };
}

// "Show as table" without another request: the numbers are here already.
function asTable(figure, data) {
  const link = figure.querySelector("[data-as-table]");
  if (!link) return;
  link.setAttribute("role", "button");
  link.setAttribute("aria-expanded", "false");
  const place = figure.querySelector("[data-table]");
  const toggle = (event) => {
    event.preventDefault();
    place.hidden = !place.hidden;
    link.setAttribute("aria-expanded", String(!place.hidden));
    link.textContent = place.hidden ? "Show as table" : "Hide the table";
    if (!place.firstChild) place.append(table(data));
  };
  link.addEventListener("click", toggle);
  link.addEventListener("keydown", (event) => event.key === " " && toggle(event));
}

function table(data) {
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const name of ["Day", ...data.series.map((one) => one.name)]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = made.createTBody();
  for (let index = data.dates.length - 1; index >= 0; index -= 1) {
    const row = body.insertRow();
    const first = document.createElement("th");
    first.scope = "row";
    first.textContent = data.dates[index];
    row.append(first);
    for (const one of data.series) {
      const cell = row.insertCell();
      cell.className = "number";
      cell.textContent = one.values[index] == null ? "–" : number.format(one.values[index]);
    }
  }
  return made;
}
