// A sheet of paper: strokes of mouse, pen or finger, kept as lines so that they can be taken back, on white or on a picture.
const SIDE = 1024; // the API shrinks larger pictures to this

interface Sheet { width: number; height: number; image?: ImageBitmap }
type Stroke = [x: number, y: number][]; // places on the sheet
export type Step = Sheet | Stroke;

const BLANK: Sheet = { width: 640, height: 360 };

export class Pad {
  private pointer: number | undefined; // that of the stroke being drawn
  private frame = 0;

  // `steps` is what was done; `changed` is called when that is other, but not while a stroke is being drawn, of which `begun` tells.
  constructor(private readonly canvas: HTMLCanvasElement, private readonly steps: Step[], private readonly begun: () => void, private readonly changed: () => void) {
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.draw(event));
    for (const end of ["pointerup", "pointercancel"] as const) canvas.addEventListener(end, (event) => this.end(event));
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  get empty(): boolean {
    return !this.sheet.image && !this.strokes.length;
  }

  undo(): void {
    if (this.pointer === undefined && this.steps.pop()) this.change();
  }

  clear(): void {
    if (!this.empty) this.change({ ...BLANK });
  }

  // Put a picture from a file on the pad; false if it is none.
  async put(file: Blob): Promise<boolean> {
    const whole = await createImageBitmap(file).catch(() => null);
    if (!whole) return false;
    const scale = Math.min(1, SIDE / Math.max(whole.width, whole.height));
    const width = Math.max(1, Math.round(whole.width * scale)), height = Math.max(1, Math.round(whole.height * scale));
    const image = scale < 1 ? await createImageBitmap(whole, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" }) : whole;
    this.change({ width, height, image });
    return true;
  }

  // What is on the sheet, in base64; a photo as PNG would be larger than the API takes.
  picture(): string {
    const { width, height, image } = this.sheet, canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    this.paintOn(canvas, 1);
    return canvas.toDataURL(image && Math.max(width, height) > 512 ? "image/jpeg" : "image/png", 0.92).split(",")[1]!;
  }

  private get sheet(): Sheet {
    return this.steps.findLast((step): step is Sheet => !Array.isArray(step)) ?? BLANK;
  }

  private get strokes(): Stroke[] {
    return this.steps.slice(this.steps.findLastIndex((step) => !Array.isArray(step)) + 1) as Stroke[];
  }

  private change(step?: Step): void {
    this.pointer = undefined;
    if (step) this.steps.push(step);
    this.paint();
    this.changed();
  }

  private begin(event: PointerEvent): void {
    if (this.pointer !== undefined || event.button !== 0) return; // a second finger, or the palm
    event.preventDefault();
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.steps.push([this.place(event)]);
    this.begun();
    this.paintSoon();
  }

  private draw(event: PointerEvent): void {
    if (event.pointerId !== this.pointer) return;
    const parts = event.getCoalescedEvents?.() ?? [];
    (this.steps.at(-1) as Stroke).push(...(parts.length ? parts : [event]).map((part) => this.place(part)));
    this.paintSoon();
  }

  private end(event: PointerEvent): void {
    if (event.pointerId === this.pointer) this.change();
  }

  // How many of the canvas's pixels, given by its size, a unit of the sheet takes, which lies in its middle.
  private scale(width: number, height: number): number {
    return Math.min(width / this.sheet.width, height / this.sheet.height);
  }

  private place(event: PointerEvent): [number, number] {
    const box = this.canvas.getBoundingClientRect(), scale = this.scale(box.width, box.height), { width, height } = this.sheet;
    return [(event.clientX - box.left - box.width / 2) / scale + width / 2, (event.clientY - box.top - box.height / 2) / scale + height / 2];
  }

  private paintSoon(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    const { canvas } = this, width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (!width || !height) return; // not shown
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.paintOn(canvas, this.scale(width, height));
  }

  private paintOn(canvas: HTMLCanvasElement, scale: number): void {
    const board = canvas.getContext("2d")!, { width, height, image } = this.sheet;
    board.setTransform(1, 0, 0, 1, 0, 0);
    board.fillStyle = board.strokeStyle = "white";
    board.fillRect(0, 0, canvas.width, canvas.height);
    board.setTransform(scale, 0, 0, scale, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
    if (image) board.drawImage(image, 0, 0);
    board.fillStyle = board.strokeStyle = "black";
    board.lineWidth = Math.max(width, height) / 32;
    board.lineCap = board.lineJoin = "round";
    for (const stroke of this.strokes) line(board, stroke);
  }
}

// A stroke as curves through the middles between its places; a dot if it stays at one.
function line(board: CanvasRenderingContext2D, stroke: Stroke): void {
  const [first, last] = [stroke[0]!, stroke.at(-1)!];
  board.beginPath();
  if (stroke.every(([x, y]) => x === first[0] && y === first[1])) {
    board.arc(...first, board.lineWidth / 2, 0, 2 * Math.PI);
    board.fill();
    return;
  }
  board.moveTo(...first);
  stroke.slice(0, -1).forEach(([x, y], i) => {
    const [nextX, nextY] = stroke[i + 1]!;
    board.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  });
  board.lineTo(...last);
  board.stroke();
}
