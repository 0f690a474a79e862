// Says in the header who is signed in. Pages are the same for everybody, so that caches may keep them: the name is asked for.

let asked;

// Return {name, scopes} of who is signed in; name is null for nobody, and where nobody can be asked.
export function session() {
  asked ??= fetch("/session", { headers: { Accept: "application/json" } })
    .then((answer) => (answer.ok ? answer.json() : Promise.reject()))
    .catch(() => ({ name: null, scopes: [] }));
  return asked;
}

export async function show(place) {
  const here = location.pathname + location.search;
  const link = place.querySelector("a");
  link.href = `/sign-in?${new URLSearchParams({ next: here })}`;
  const { name } = await session();
  if (name === null) return;
  link.textContent = name;
  link.title = `Signed in as ${name}`;
  const before = document.createElement("span");
  before.className = "visually-hidden";
  before.textContent = "Signed in as ";
  link.before(before);
  const form = document.createElement("form");
  form.method = "post";
  form.action = `/sign-out?${new URLSearchParams({ next: here })}`;
  const button = document.createElement("button");
  button.textContent = "Sign out";
  form.append(button);
  place.after(form);
}
