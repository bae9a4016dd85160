// The interface in English and Hindi. A view adds its texts with `addTexts`; `t` gives one in the language of the page.

export type Language = "en" | "hi";
type Texts = Record<string, readonly [en: string, hi: string]>;

const known: Texts = {};
let language: Language = "en";

export function addTexts(view: string, texts: Texts): void {
  for (const [key, both] of Object.entries(texts)) known[`${view}.${key}`] = both;
}

export function setLanguage(chosen: Language): void {
  language = chosen;
  document.documentElement.lang = chosen;
}

export const currentLanguage = (): Language => language;

// The text "view.key", with {0}, {1} … replaced by `values`.
export function t(key: string, ...values: (string | number)[]): string {
  const text = known[key]?.[language === "hi" ? 1 : 0] ?? key;
  return text.replace(/\{(\d)\}/g, (_, place: string) => String(values[Number(place)] ?? ""));
}

// The language that a text is in, for `lang`: voices and fonts go by it.
export const languageOf = (text: string): Language => (/\p{Script=Devanagari}/u.test(text) ? "hi" : "en");

addTexts("api", {
  away: ["The server does not answer; try again later.", "सर्वर जवाब नहीं दे रहा है; थोड़ी देर बाद फिर कोशिश करें।"],
  status: ["The server answered with the status {0}; try again later.", "सर्वर ने स्थिति {0} लौटाई; थोड़ी देर बाद फिर कोशिश करें।"],
});
