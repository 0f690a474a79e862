// A button that copies a text, and says that it did.

export function start(part) {
  const field = part.querySelector("textarea");
  const button = part.querySelector("[data-copy]");
  const said = part.querySelector("[data-copied]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    said.textContent = "";
    said.textContent = (await copied(field)) ? "Copied." : "This browser doesn't let a page copy: the text is selected, press Ctrl C.";
  });
}

// A site without https has no clipboard; what is selected can be copied there, too.
async function copied(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}
