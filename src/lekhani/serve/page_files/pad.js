// A sheet of paper: drawn on with mouse, pen or finger, or covered by a picture from a file.
const SIDE = 1024; // the API shrinks larger pictures to this
const canvas = element.querySelector("canvas"), note = element.querySelector(".note"), file = element.querySelector("input");
const board = canvas.getContext("2d");

function paper(width, height) {
  canvas.width = width;
  canvas.height = height;
  board.fillStyle = "white";
  board.fillRect(0, 0, width, height);
  note.textContent = "";
}

function place(event) {
  const box = canvas.getBoundingClientRect(), scale = Math.min(box.width / canvas.width, box.height / canvas.height); // it may have margins
  return [(event.clientX - box.left - box.width / 2) / scale + canvas.width / 2, (event.clientY - box.top - box.height / 2) / scale + canvas.height / 2];
}

function stroke(event) {
  const parts = event.getCoalescedEvents?.() ?? [];
  for (const part of parts.length ? parts : [event]) board.lineTo(...place(part));
  board.stroke();
}

canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  board.lineWidth = canvas.height / 15;
  board.lineCap = board.lineJoin = "round";
  board.strokeStyle = "black";
  board.beginPath();
  board.moveTo(...place(event));
  stroke(event); // a dot, if it stays at that
});
canvas.addEventListener("pointermove", (event) => {
  if (canvas.hasPointerCapture(event.pointerId)) stroke(event);
});
element.querySelector("[data-do=clear]").addEventListener("click", () => paper(480, 240));
file.addEventListener("change", async () => {
  const [chosen] = file.files;
  file.value = ""; // so that the same file can be chosen again
  if (!chosen) return;
  try {
    const image = await createImageBitmap(chosen);
    const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
    paper(Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale)));
    board.drawImage(image, 0, 0, canvas.width, canvas.height);
  } catch {
    note.textContent = "This file cannot be read; choose a picture such as a PNG or JPEG.";
  }
});
// A photo as PNG would be larger than the API takes.
canvas.picture = () => canvas.toDataURL(Math.max(canvas.width, canvas.height) > 512 ? "image/jpeg" : "image/png", 0.92);
paper(480, 240);
