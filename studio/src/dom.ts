// Elements, forms and what they say. Texts become text nodes, never markup.
import { Refusal } from "./engine";
import { languageOf, t, addTexts } from "./texts";

type Child = Node | string;
type Properties<E> = Partial<Omit<E, "style" | "attributes">> & { attributes?: Record<string, string> };

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, properties: Properties<HTMLElementTagNameMap[K]> = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const { attributes = {}, ...rest } = properties, element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A text in its own language, which need not be the page's.
export const spoken = (text: string, tag: "span" | "b" | "figcaption" | "option" = "span"): HTMLElement =>
  make(tag, { textContent: text, lang: languageOf(text) });

export const picture = (src: string, text: string): HTMLImageElement => make("img", { src, alt: text, lang: languageOf(text) });

export const captioned = (src: string, text: string): HTMLElement => make("figure", {}, picture(src, ""), spoken(text, "figcaption"));

// Something to fill in, with its label, and a place for what is wrong with it.
export type Control = HTMLInputElement | HTMLSelectElement | HTMLCanvasElement;

export function labelled(text: string, control: Control, ...after: Child[]): HTMLElement {
  return make("div", { className: "field" }, make("label", { htmlFor: control.id, textContent: text }), control, ...after, errorOf(control));
}

export function errorOf(control: Control): HTMLElement {
  const id = `${control.id}-error`;
  control.setAttribute("aria-describedby", [control.getAttribute("aria-describedby"), id].filter(Boolean).join(" "));
  return make("p", { id, className: "error", role: "alert" });
}

// A sentence at a control; none takes it away.
export function complain(control: Control, sentence = ""): void {
  const place = document.getElementById(`${control.id}-error`);
  if (place) place.textContent = sentence;
  control.setAttribute("aria-invalid", String(sentence !== ""));
}

// What the page itself finds wrong with a control.
export class FieldError extends Refusal {
  constructor(readonly control: Control, sentence: string) {
    super(sentence);
  }
}

// The whole number in a control; otherwise it says so and gets the focus.
export function wholeNumber(control: HTMLInputElement, name: string): number {
  const value = control.valueAsNumber, least = Number(control.min), most = Number(control.max || Number.MAX_SAFE_INTEGER);
  if (Number.isSafeInteger(value) && least <= value && value <= most) return value;
  control.closest("details")?.setAttribute("open", "");
  control.focus();
  throw new FieldError(control, t("dom.whole", name, least, most));
}

// A function that runs `work(signal, ...)` and shows what it returns as `status`, or its error at the control that it is about:
// that of a FieldError, the one of `controls` with the field's name as id, or else the first. A new run ends the one before.
export function task<A extends unknown[]>(
  status: HTMLElement, controls: Control[], beginning: string, work: (signal: AbortSignal, ...given: A) => Promise<Child>,
): (...given: A) => Promise<void> {
  let current: AbortController | undefined;
  return async (...given) => {
    current?.abort();
    const { signal } = (current = new AbortController());
    for (const control of controls) complain(control);
    status.textContent = beginning;
    try {
      const said = await work(signal, ...given);
      if (!signal.aborted) status.replaceChildren(said);
    } catch (error) {
      if (signal.aborted) return;
      status.textContent = "";
      if (!(error instanceof Refusal)) throw error;
      const control = error instanceof FieldError ? error.control : controls.find((one) => one.name === error.field || one.id === error.field);
      complain(control ?? controls[0]!, error.message);
      control?.closest("details")?.setAttribute("open", "");
    }
  };
}

declare global {
  interface HTMLCanvasElement { name?: undefined }
}

// One Tab stop for many buttons; arrow keys, Home and End lead from one to the next.
export function roving(container: HTMLElement): void {
  const stops = (): HTMLButtonElement[] => [...container.querySelectorAll("button")];
  function moveTo(button: EventTarget | null): void {
    for (const one of stops()) one.tabIndex = one === button ? 0 : -1;
  }
  container.addEventListener("focusin", (event) => moveTo(event.target));
  container.addEventListener("keydown", (event) => {
    const buttons = stops(), place = buttons.indexOf(event.target as HTMLButtonElement);
    if (place < 0) return;
    const columns = buttons.filter((one) => one.offsetTop === buttons[place]!.offsetTop).length;
    const steps: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: buttons.length - 1 - place };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    buttons[place + step]?.focus();
  });
  moveTo(stops()[0] ?? null);
}

addTexts("dom", {
  whole: ["{0} is a whole number from {1} to {2}.", "{0}: {1} से {2} तक की कोई पूर्ण संख्या दें।"],
});
