// A tapped letter goes where the caret stands.
document.addEventListener("click", (event) => {
  const letter = event.target.closest("#letters button");
  if (!letter) return;
  const field = document.querySelector("#text textarea, #text input");
  field.setRangeText(letter.textContent, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
});
