// Names to choose from while one types; a chosen one is added at once.

const WAIT_MS = 200;

export function start(form) {
  const field = form.querySelector("#add");
  if (!field) return;
  const list = form.querySelector("datalist");
  let waiting;
  let asked = 0;

  const suggest = async () => {
    const text = field.value.trim();
    const turn = ++asked;
    if (text.length < 2) return;
    const answer = await fetch(`/charts/suggest?${new URLSearchParams({ q: text })}`).catch(() => null);
    if (turn !== asked || !answer?.ok) return; // a later letter has been typed; without suggestions it works as well
    list.replaceChildren(...(await answer.json()).map(({ name, title }) => {
      const option = document.createElement("option");
      option.value = name;
      option.label = title;
      return option;
    }));
  };

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    if ([...list.options].some((option) => option.value === field.value)) form.requestSubmit();
    else waiting = setTimeout(suggest, WAIT_MS);
  });
  // What is left empty needn't stand in the address.
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
}
