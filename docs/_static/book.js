// What the book's pages do besides being read: live explorers, and excerpts in the search.

const here = document.currentScript.src.replace(/[^/]*$/, "");
const loading = new Map();

// Scripts work from a disk too, where fetch() does not.
function script(name) {
  if (!loading.has(name))
    loading.set(name, new Promise((resolve, reject) => {
      const onerror = () => reject(new Error(`${name} is missing`));
      document.head.append(Object.assign(document.createElement("script"), { src: here + name, onload: resolve, onerror }));
    }));
  return loading.get(name);
}

// --- explorers ---

window.mixerBook = { kinds: {}, networks: {}, states: {}, worker: "" };
const engines = new Map(); // one network each, for all explorers of the page

async function engineOf({ Engine }, name) {
  await Promise.all([script(`explorers/network-${name}.js`), script("explorers/worker.js")]);
  if (!engines.has(name)) engines.set(name, new Engine(mixerBook.worker, mixerBook.networks[name]));
  return engines.get(name);
}

// The figure of an interact, with a stored picture for every place of its sliders; where there
// would be too many, one slider moves at a time and the others go back to where they began.
function mountSliders(place, { sliders, single, pictures }) {
  const image = document.createElement("img"), rows = document.createElement("div");
  const parts = sliders.map(({ name, values, start }) => {
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: values.length - 1, value: start });
    const label = document.createElement("label"), output = document.createElement("output");
    label.append(name, input, output);
    rows.append(label);
    return { input, output, values, start };
  });
  function show() {
    const chosen = parts.map(({ input }) => input.value).join();
    Object.assign(image, pictures[chosen]);
    for (const { input, output, values } of parts) {
      output.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
    }
  }
  for (const part of parts)
    part.input.addEventListener("input", () => {
      if (single) for (const other of parts) if (other !== part) other.input.value = other.start;
      show();
    });
  rows.className = "sliders";
  place.replaceChildren(rows, image);
  if (single) {
    const note = document.createElement("p");
    note.textContent = "Here one slider moves at a time; in JupyterLab, all of them.";
    place.append(note);
  }
  show();
  place.dataset.ready = "yes";
}

async function stateOf(name) {
  await script(`explorers/state-${name}.js`);
  const saved = mixerBook.states[name];
  return typeof saved === "string" ? stateOf(saved) : saved; // the name of one that is alike
}

async function mount(place) {
  const name = place.dataset.state, saved = await stateOf(name);
  if (saved.kind === "sliders") return mountSliders(place, saved);
  await script(`explorers/kind-${saved.kind}.js`);
  const kind = mixerBook.kinds[saved.kind], state = kind.readState(JSON.stringify(saved.state));
  const model = saved.network ? new kind.AnsweringModel(state, await engineOf(kind, saved.network)) : new kind.PageModel(state);
  const root = place.attachShadow({ mode: "open" }), style = document.createElement("style"), el = document.createElement("div");
  // Small text in the accent's colour needs more contrast than a line does.
  style.textContent = `:host { display: block; overflow-wrap: normal; } ${kind.css} .mixer-lite { --accent: light-dark(#b34d00, #ff9d57); }`;
  root.append(style, el);
  kind.openPage(kind.explorer, model, saved.view, el, `${name}?`);
  place.model = model;
  if (saved.network) await model.engine.ready;
  place.dataset.ready = "yes";
}

const named = (place) => location.hash.startsWith(`#${place.dataset.state}?`);
const near = new IntersectionObserver(
  (seen) => seen.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    near.unobserve(target);
    mount(target).catch(console.error);
  }),
  { rootMargin: "400px" },
);

function openTab(place) { // the view that the address names may be under another tab
  const tab = place.closest(".sd-tab-content")?.previousElementSibling;
  if (tab?.htmlFor) document.getElementById(tab.htmlFor).checked = true;
}

function start() {
  for (const place of document.querySelectorAll(".explorer")) {
    near.observe(place);
    if (!named(place)) continue;
    openTab(place);
    place.scrollIntoView();
  }
}
if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
else start();

// --- search ---

// Sphinx fetches each page that it found and cuts an excerpt from it; the texts are in one script.
if (typeof Search !== "undefined") {
  const root = new URL(document.documentElement.dataset.content_root, location.href).href;
  window.fetch = async (address) => {
    await script("texts.js");
    const page = new URL(address, location.href).href.slice(root.length).replace(/\.html$/, "");
    return { text: async () => page };
  };
  Search.htmlToText = (page, anchor) => {
    const texts = window.bookTexts[page] ?? {};
    return (anchor && texts[anchor]) || Object.values(texts).join(" ");
  };
  // Without a question the page would be empty.
  if (!new URLSearchParams(location.search).get("q")?.trim())
    addEventListener("DOMContentLoaded", () => {
      const title = document.createElement("h1"), form = document.createElement("form");
      const input = document.createElement("input"), button = document.createElement("button");
      title.textContent = "Search";
      Object.assign(input, { type: "search", name: "q", placeholder: "token mixing" });
      input.setAttribute("aria-label", "Search the book");
      button.textContent = "Search";
      form.append(input, button);
      document.getElementById("search-results").replaceChildren(title, form);
      input.focus();
    });
}
