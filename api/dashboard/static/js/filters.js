// Filters that answer while one types: the address and the list follow, the page stays.

const WAIT_MS = 250;

export function start(form) {
  let waiting;
  let asked = 0;

  const show = async () => {
    const fields = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const address = `${location.pathname}?${fields}`;
    const turn = ++asked;
    form.closest("section").setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      if (turn !== asked) return; // a later letter has been typed
      if (!answer.ok) throw new Error(String(answer.status));
      replace(form, new DOMParser().parseFromString(await answer.text(), "text/html"));
      history.replaceState(null, "", address);
    } catch {
      if (turn === asked) form.submit(); // as it would be without a script
    } finally {
      form.closest("section").removeAttribute("aria-busy");
    }
  };

  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(show, event.target.type === "search" ? WAIT_MS : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    show();
  });
}

// Everything of the section but the form, whose fields someone is typing into.
function replace(form, page) {
  const section = form.closest("section");
  const fresh = page.querySelector("[data-module=filters]").closest("section");
  for (const old of [...section.children]) if (old !== form) old.remove();
  for (const part of [...fresh.children]) if (!part.matches("form")) section.append(part);
  document.querySelector(".page-head").replaceWith(page.querySelector(".page-head"));
  import("./times.js").then(({ localise }) => localise(section));
}
