// The page: its language, a key where the server wants one, and the views, whose state is in the address.
import { ApiEngine, keepKey } from "./api";
import { complain, labelled, make } from "./dom";
import { Engine, Model, Refusal } from "./engine";
import { addTexts, currentLanguage, Language, setLanguage, t } from "./texts";
import { View, ViewKind } from "./view";
import { write } from "./views/write";
import { explore } from "./views/explore";
import { draw } from "./views/draw";
import { watch } from "./views/watch";
import { compare } from "./views/compare";
import { training } from "./views/training";

const KINDS: ViewKind[] = [write, explore, draw, watch, compare, training];
const LANGUAGES: Record<Language, string> = { en: "English", hi: "हिन्दी" };

interface Address { view: string; params: URLSearchParams }

// "#write?text=…&lang=hi": after the #, so that no server sees what is written.
function address(): Address {
  const [view, query] = location.hash.slice(1).split("?", 2);
  return { view: view || KINDS[0]!.name, params: new URLSearchParams(query) };
}

const hash = (view: string, params: URLSearchParams): string => `#${view}${params.size ? `?${params}` : ""}`;

function linkTo(view: string): string {
  const params = new URLSearchParams(), lang = address().params.get("lang");
  if (lang) params.set("lang", lang);
  return hash(view, params);
}

class Studio {
  private readonly views = new Map<string, View>();
  private readonly kinds: ViewKind[];
  private readonly main = make("main");
  private readonly trouble = make("p", { id: "trouble", className: "error", role: "alert" });
  private readonly nav = make("nav", { ariaLabel: t("main.views") });
  private models: Model[] = [];
  private open: View | undefined;
  private readonly listening = new AbortController();

  constructor(private readonly engine: Engine) {
    this.kinds = KINDS.filter((kind) => engine.edition === "server" || !kind.needsServer);
    const skip = make("a", { href: "#", className: "skip", textContent: t("main.skip") });
    skip.addEventListener("click", (event) => {
      event.preventDefault();
      this.main.tabIndex = -1;
      this.main.focus();
    });
    document.body.replaceChildren(this.header(skip), this.trouble, this.main);
  }

  async start(): Promise<void> {
    const { signal } = this.listening;
    document.addEventListener("keyless", (event) => this.askForKey((event as CustomEvent<string>).detail), { signal });
    window.addEventListener("hashchange", () => (addressLanguage() === currentLanguage() ? this.route() : restart(this.engine)), { signal });
    await this.load();
  }

  end(): void {
    this.open?.hide?.();
    this.listening.abort();
  }

  private header(skip: HTMLElement): HTMLElement {
    const languages = (Object.keys(LANGUAGES) as Language[]).filter((one) => one !== currentLanguage()).map((lang) => {
      const button = make("button", { type: "button", className: "plain", lang, textContent: LANGUAGES[lang] });
      button.addEventListener("click", () => {
        const { view, params } = address();
        params.set("lang", lang);
        location.hash = hash(view, params);
      });
      return button;
    });
    const title = make("h1", {}, make("a", { href: linkTo(KINDS[0]!.name), lang: "en", textContent: "Lekhani" }), " ", make("span", { lang: "hi", textContent: "लेखनी" }));
    return make("header", {}, skip, title, this.nav, ...languages);
  }

  private async load(): Promise<void> {
    this.trouble.textContent = "";
    try {
      const models = await this.engine.models();
      if (!models.length) throw new Refusal(t("main.none"));
      this.make(models);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (!document.getElementById("key-form")) this.trouble.textContent = error.message;
    }
  }

  private make(models: Model[]): void {
    this.models = models;
    this.views.clear();
    this.main.replaceChildren();
    this.open = undefined;
    this.route();
  }

  // Views are made when they are first opened.
  private view(kind: ViewKind): View {
    let view = this.views.get(kind.name);
    if (!view) {
      view = kind.create({ engine: this.engine, models: this.models, remember: (params) => this.remember(kind.name, params) });
      this.views.set(kind.name, view);
      this.main.append(view.element);
    }
    return view;
  }

  private route(): void {
    if (!this.models.length) return; // a key is missing
    const { view: wanted, params } = address(), kind = this.kinds.find((one) => one.name === wanted) ?? this.kinds[0]!;
    this.nav.replaceChildren(...this.kinds.map((one) => {
      const link = make("a", { href: linkTo(one.name), textContent: t(`${one.name}.title`) });
      if (one === kind) link.ariaCurrent = "page";
      return link;
    }));
    document.title = `${t(`${kind.name}.title`)} – Lekhani`;
    const view = this.view(kind);
    if (this.open !== view) this.open?.hide?.();
    this.open = view;
    for (const one of this.views.values()) one.element.hidden = one !== view;
    void view.show?.(params);
  }

  private remember(name: string, params: Record<string, string | number | undefined>): void {
    const { view, params: before } = address(), kept = new URLSearchParams(), lang = before.get("lang");
    if (view !== name && this.kinds.some((one) => one.name === view)) return; // another view is open by now
    for (const [key, value] of Object.entries(params)) if (value !== undefined) kept.set(key, String(value));
    if (lang) kept.set("lang", lang);
    history.replaceState(null, "", hash(name, kept));
  }

  private askForKey(detail: string): void {
    const before = document.getElementById("key") as HTMLInputElement | null;
    if (before) {
      complain(before, detail);
      return;
    }
    const key = make("input", { id: "key", type: "password", autocomplete: "off", attributes: { "aria-describedby": "key-hint" } });
    const form = make("form", { id: "key-form", noValidate: true }, labelled(t("main.key"), key),
      make("p", { id: "key-hint", className: "quiet", textContent: t("main.keyHint") }), make("button", { className: "primary", textContent: t("main.useKey") }));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const given = key.value.trim();
      if (!/^[!-~]+$/.test(given)) {
        complain(key, t("main.keyWrong"));
        return;
      }
      complain(key);
      keepKey(given);
      key.value = "";
      await this.load();
    });
    this.main.replaceChildren(form);
    complain(key, detail);
    key.focus();
  }
}

function addressLanguage(): Language {
  const wanted = address().params.get("lang") ?? navigator.language.slice(0, 2);
  return wanted === "hi" ? "hi" : "en";
}

let studio: Studio | undefined;

async function restart(engine: Engine): Promise<void> {
  studio?.end();
  setLanguage(addressLanguage());
  studio = new Studio(engine);
  await studio.start();
}

addTexts("main", {
  views: ["Views", "दृश्य"],
  skip: ["Skip to content", "सीधे सामग्री पर जाएँ"],
  none: ["There is no model to write with; run `lekhani serve` in a folder with models, or install the package again.",
    "लिखने के लिए कोई मॉडल नहीं है; मॉडल वाले फ़ोल्डर में `lekhani serve` चलाएँ, या पैकेज दोबारा इंस्टॉल करें।"],
  key: ["Key", "कुंजी"],
  keyHint: ["This server asks for a key. It is kept in this tab until you close it.", "यह सर्वर कुंजी माँगता है। वह केवल इस टैब में, उसके बंद होने तक रहती है।"],
  keyWrong: ["A key consists of letters, digits and signs such as - and _, without spaces.", "कुंजी में केवल लैटिन अक्षर, अंक और - तथा _ जैसे चिह्न होते हैं, खाली जगह नहीं।"],
  useKey: ["Use this key", "यह कुंजी लगाएँ"],
});

// In the static edition the browser itself writes and reads.
async function engine(): Promise<Engine> {
  return document.documentElement.dataset.edition === "static" ? new (await import("./local/local")).LocalEngine() : new ApiEngine();
}

void engine().then(restart);
