// Says that a list is too long before it is sent, while it still stands in the field.

const size = new Intl.NumberFormat();

export function start(form) {
  const said = form.querySelector("[data-too-large]");
  const most = Number(form.dataset.most);
  form.addEventListener("submit", (event) => {
    const file = form.elements.file.files[0];
    const bytes = file ? file.size : new TextEncoder().encode(form.elements.list.value).length;
    said.hidden = bytes <= most;
    if (said.hidden) return;
    event.preventDefault();
    said.textContent = `The list has ${size.format(bytes)} bytes; this page takes ${size.format(most)}. Send it in parts, or use rollcall accounts import.`;
  });
}
