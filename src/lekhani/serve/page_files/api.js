// Calls of the API. Where the server has keys, one is kept in this tab and sent with each call.
const KEY = "lekhani-key";

export class Refusal extends Error {} // its message is a sentence for people; readings are what was not sure

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

// What the API answers: a value, or a Blob for another media type than JSON. A refused key makes the event "keyless".
export async function ask(route, body, { accept = "application/json", signal } = {}) {
  const headers = { Accept: accept }, key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const answer = await fetch(`v1/${route}`, request).catch((error) => {
    throw error.name === "AbortError" ? error : new Refusal("The server does not answer; try again later.");
  });
  if (answer.ok) return accept === "application/json" ? answer.json() : answer.blob();
  const problem = await answer.json().catch(() => ({}));
  const sentence = problem.detail ?? `The server answered with the status ${answer.status}; try again later.`;
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    document.dispatchEvent(new CustomEvent("keyless", { detail: key ? sentence : "" }));
  }
  throw Object.assign(new Refusal(sentence), { readings: problem.readings });
}
