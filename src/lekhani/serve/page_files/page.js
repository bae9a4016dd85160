// The page: a key where the server wants one, the models, and the two tabs.
import { ask, keepKey, Refusal } from "./api.js";
import { byId, complain, make, roving } from "./dom.js";
import "./read.js";
import { showModels } from "./write.js";

const main = document.querySelector("main"), tabs = byId("tabs"), form = byId("key-form"), key = byId("key");

function fill(select, names, chosen) {
  const kept = names.includes(select.value) ? select.value : chosen;
  select.replaceChildren(...names.map((name) => make("option", { textContent: name, selected: name === kept })));
  select.closest(".choice").hidden = names.length < 2;
}

async function start() {
  byId("trouble").textContent = "";
  try {
    const models = await ask("models"), names = models.map((one) => one.dataset);
    const first = names.includes("devanagari") ? "devanagari" : names[0];
    for (const id of ["model", "source"]) fill(byId(id), names, first);
    fill(byId("target"), names, names.find((name) => name !== first));
    form.hidden = true;
    main.hidden = false;
    showModels(models);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (form.hidden) byId("trouble").textContent = error.message;
  }
}

function select(tab) {
  for (const one of tabs.children) {
    one.ariaSelected = one === tab;
    byId(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
}

document.addEventListener("keyless", (event) => {
  form.hidden = false;
  complain(key, event.detail);
  key.focus();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = key.value.trim();
  if (!/^[!-~]+$/.test(given)) {
    complain(key, "A key consists of letters, digits and signs such as - and _, without spaces.");
    return;
  }
  complain(key);
  keepKey(given);
  key.value = "";
  start().then(() => byId("text").focus()); // which is hidden, and stays so, when the key is refused
});
tabs.addEventListener("click", (event) => event.target.role === "tab" && select(event.target));
tabs.addEventListener("focusin", (event) => select(event.target));
roving(tabs);
start();
