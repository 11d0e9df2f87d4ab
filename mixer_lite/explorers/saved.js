// What a saved page has in place of Jupyter: a model for its explorer, and the view in its address.

// The part of anywidget's model that explorers use. Nobody answers it: see engine/live.js for one
// that asks the network in the page.
class PageModel {
  constructor(state) {
    this.state = state;
    this.listeners = new Map();
    this.asks = false;
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    for (const event of [`change:${name}`, "change"])
      for (const callback of [...(this.listeners.get(event) ?? [])]) callback();
  }
  on(event, callback) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(callback);
  }
  off(event, callback) {
    this.listeners.get(event)?.delete(callback);
  }
  async follow() {} // what was changed
  save_changes() {}
  send() {}
}

// The page's data: JSON, with bytes as {"$bytes": base64}.
function readState(text) {
  return JSON.parse(text, (key, value) => {
    if (value === null || typeof value !== "object" || !("$bytes" in value)) return value;
    const bytes = Uint8Array.from(atob(value.$bytes), (letter) => letter.charCodeAt(0));
    return new DataView(bytes.buffer);
  });
}

// What a reader chose stands in the address, so that a view can be sent: #block=3&covered=[1,2]. On a
// page with several explorers, name? comes before it. Values of another kind than the saved view's
// are passed over.
function readAddress(model, names, name) {
  const view = location.hash.slice(1);
  const asked = new URLSearchParams(view.startsWith(name) ? view.slice(name.length) : "");
  const kind = (value) => (Array.isArray(value) ? "list" : typeof value);
  for (const own of names) {
    if (!asked.has(own)) continue;
    try {
      const value = JSON.parse(asked.get(own)), now = model.get(own);
      if (now === null || kind(now) === kind(value)) model.set(own, value);
    } catch {
      // not a value
    }
  }
}

function followInAddress(model, names, start, explorer) {
  let timer = 0;
  const written = (name) => JSON.stringify(model.get(name));
  model.on("change", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const chosen = names.filter((name) => written(name) !== start[name]);
      history.replaceState(null, "", `#${explorer}${new URLSearchParams(chosen.map((name) => [name, written(name)]))}`);
    }, 200);
  });
}

// Draw the explorer with the view that the address asks for; where there is no such view, as saved.
function openPage(explorer, model, names, el, name = "") {
  const start = Object.fromEntries(names.map((own) => [own, JSON.stringify(model.get(own))]));
  const asSaved = () => names.forEach((own) => model.set(own, JSON.parse(start[own])));
  const tryAddress = () => {
    readAddress(model, names, name);
    return model.follow().catch(() => (asSaved(), model.follow()));
  };
  readAddress(model, names, name);
  try {
    explorer.render({ model, el });
  } catch {
    el.replaceChildren();
    asSaved();
    explorer.render({ model, el });
  }
  if (names.some((own) => JSON.stringify(model.get(own)) !== start[own])) tryAddress();
  followInAddress(model, names, start, name);
  addEventListener("hashchange", tryAddress);
}
