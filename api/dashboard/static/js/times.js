// Times, days and numbers as the reader's own language writes them; UTC stays in the title.

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", timeZone: "UTC" });
const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
// The server writes 1,234.5: there is nothing to do where the reader does, too.
const isAlike = new Intl.NumberFormat().format(1234.5) === "1,234.5";
// Where the server writes a number and nothing else: sentences stay in the language of the page, and people's own words
// as they wrote them.
const NUMBERS = "td.number, td.number > strong, .value, .delta, [data-number]";
const WRITTEN = /\d[\d,]*(?:\.\d+)?/;

export function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const given = time.getAttribute("datetime");
    const written = time.textContent;
    if (given.includes("T")) {
      time.title = written.includes("UTC") ? written : `${written} UTC`;
      time.textContent = moment.format(new Date(given));
    } else {
      time.title = `${given}, a UTC day`;
      if (time.firstElementChild) continue; // a calendar's square says no more than its place has room for
      const like = /\d{4}/.test(written) ? day : /^[A-Z]/.test(written) ? weekday : short;
      time.textContent = like.format(new Date(given)); // wherever it is read
    }
  }
  if (isAlike) return;
  for (const place of root.querySelectorAll(NUMBERS)) {
    if ("written" in place.dataset) continue; // done before: 1.234 would be read as another number
    place.dataset.written = "";
    for (const part of place.childNodes) if (part.nodeType === Node.TEXT_NODE) part.data = number(part.data);
  }
}

function number(text) {
  const written = WRITTEN.exec(text)?.[0];
  if (!written) return text;
  const digits = written.split(".")[1]?.length ?? 0;
  const format = new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return text.replace(written, format.format(Number(written.replaceAll(",", ""))));
}
