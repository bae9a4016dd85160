// A sheet of paper: drawn on with mouse, pen or finger, or covered by a picture from a file.
import { byId, complain } from "./dom.js";

const SIDE = 1024; // the API shrinks larger pictures to this
export const pad = byId("pad");
const board = pad.getContext("2d"), file = byId("file");

function newPaper(width, height) {
  pad.width = width;
  pad.height = height;
  board.fillStyle = "white";
  board.fillRect(0, 0, width, height);
  complain(pad);
}

// An event's place on the paper, which may have margins within its box.
function place(event) {
  const box = pad.getBoundingClientRect(), scale = Math.min(box.width / pad.width, box.height / pad.height);
  return [(event.clientX - box.left - box.width / 2) / scale + pad.width / 2, (event.clientY - box.top - box.height / 2) / scale + pad.height / 2];
}

function stroke(event) {
  const parts = event.getCoalescedEvents();
  for (const part of parts.length ? parts : [event]) board.lineTo(...place(part));
  board.stroke();
}

async function showFile() {
  const [chosen] = file.files;
  file.value = ""; // so that the same file can be chosen again
  if (!chosen) return;
  const image = await createImageBitmap(chosen).catch(() => null);
  if (!image) {
    complain(pad, "This file cannot be read; choose a picture such as a PNG or JPEG.");
    return;
  }
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  newPaper(Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale)));
  board.drawImage(image, 0, 0, pad.width, pad.height);
}

// In base64; a photo as PNG would be larger than the API takes.
export function pictureOnPad() {
  const kind = Math.max(pad.width, pad.height) > 512 ? "image/jpeg" : "image/png";
  return pad.toDataURL(kind, 0.92).split(",")[1];
}

pad.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  pad.setPointerCapture(event.pointerId);
  board.lineWidth = pad.height / 15;
  board.lineCap = board.lineJoin = "round";
  board.strokeStyle = "black";
  board.beginPath();
  board.moveTo(...place(event));
  stroke(event); // a dot, if it stays at that
});
pad.addEventListener("pointermove", (event) => {
  if (pad.hasPointerCapture(event.pointerId)) stroke(event);
});
byId("clear").addEventListener("click", () => newPaper(480, 240));
file.addEventListener("change", showFile);
newPaper(480, 240);
