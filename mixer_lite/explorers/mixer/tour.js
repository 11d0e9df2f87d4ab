// The guided tour: steps that say what to look at and set the view.

// Each step: a title, what it sets, and sentences, of which [text, set] pairs are buttons that set
// more. `set` is an object of traits, or a function of what is seen that returns one.
function tourSteps(sizes, classes) {
  const { grid: [gh, gw], patch, blocks, channels, units } = sizes, tokens = gh * gw;
  const middle = Math.floor(gh / 2) * gw + Math.floor(gw / 2), last = blocks - 1, halfway = Math.floor(blocks / 2);
  // Patches by what they say for the class, loudest first; before anything was covered.
  const ranked = ({ evidenceBefore }) => descendingOf(evidenceBefore);
  const few = Math.max(1, Math.round(tokens / 8)), sorted = (list) => [...list].sort((a, b) => a - b);
  const loudest = (seen) => ({ covered: sorted(ranked(seen).slice(0, few)) });
  const quietest = (seen) => ({ covered: sorted(ranked(seen).slice(-few)) });
  const allBut = (seen) => ({ covered: sorted(ranked(seen).slice(few)) });
  const loudUnit = ({ sum }) => (sum.activations ? { unit: descendingOf(sum.activations.map(Math.abs))[0] } : {});
  return [
    { title: "A photograph becomes a table", set: { station: "stem", covered: [], picture: "channel", token: middle },
      say: [`The photograph is cut into ${gh} × ${gw} patches of ${patch} × ${patch} pixels. Each becomes a token: ${channels} numbers. Look at `,
        ["the patch in the middle", { token: middle }], " or at ", ["the one in the first corner", { token: 0 }], "."] },
    { title: "One channel is a map", set: { station: "tokens", block: 0, covered: [], picture: "channel" },
      say: [`Take the same number of every token, and there is a picture again: a channel, as a map over the patches. Follow `,
        ["channel 0", { channel: 0 }], ", ", ["channel 1", { channel: 1 }], " or ", [`channel ${channels - 1}`, { channel: channels - 1 }], " along the strip."] },
    { title: "Patches talk: token mixing", set: { station: "tokens", block: 0, covered: [], picture: "channel" },
      say: [`Block 0 has ${units} units for this. Each lays its template over the channel's map, multiplies, adds up, and paints its answer back over the patches. See `,
        ["the loudest unit for this channel", loudUnit], ". The same units serve all channels: ", ["another channel", ({ choice }) => ({ channel: (choice.channel + 37) % channels })], "."] },
    { title: "Channels talk: channel mixing", set: { station: "channels", block: 0, covered: [] },
      say: ["Now every token is on its own: one MLP looks at its numbers and adds to them. Patches cannot see each other here, only ",
        ["this token's", { token: middle }], " or ", ["that token's", { token: tokens - 1 }], " own row."] },
    { title: `${blocks} times the same`, set: { station: "tokens", block: halfway, covered: [], picture: "channel" },
      say: ["Both steps repeat, block after block. The line along the strip is the skip connection: blocks only add to what flows on. The bars below say how probable the class would be if the network ended there. ",
        ["Halfway", { block: halfway }], ", ", ["in the last block", { block: last }], "."] },
    { title: "The whole table", set: { station: "channels", block: last, covered: [], picture: "table" },
      say: ["Here each picture is the whole table: a row is a token, a column a channel. Stripes from top to bottom are channels that are alike for all patches. ",
        ["Back to one channel", { picture: "channel" }], "."] },
    { title: "The mean decides", set: { station: "classes", covered: [], picture: "channel" },
      say: ["At the end all tokens are averaged, and each class weighs the mean. So a logit is exactly the mean of what the patches say, plus a bias. ",
        ...classes.slice(0, 3).flatMap(([k, name], i) => [i ? ", " : "See ", [name, { class_index: k }]]), "."] },
    { title: "Cover what speaks", set: loudest,
      say: [`The ${few} patches that say most for the class are covered. Does the Mixer change its mind? Compare with `,
        [`the ${few} that say least`, quietest], ", or leave ", [`only the loudest ${few}`, allBut], "."] },
    { title: "Your turn", set: { covered: [], station: "tokens", step: 9 },
      say: ["Open a photograph of yours, drag over patches to cover them, and open any station. The address keeps the view: send it to somebody."] },
  ];
}

function makeTour({ model, state, signal }) {
  const sizes = model.get("_sizes");
  const title = h("h3"), text = h("p"), count = h("span", { className: "count" });
  const back = h("button", { type: "button", onclick: () => go(model.get("step") - 1) }, "Back");
  const next = h("button", { type: "button", className: "next", onclick: () => go(model.get("step") + 1) });
  const end = h("button", { type: "button", onclick: () => set({ step: 0 }) }, "End the tour");
  const node = h("section", { className: "tour", "aria-label": "Guided tour" },
    h("div", { className: "text", "aria-live": "polite" }, title, text), h("div", { className: "row" }, count, back, next, end));
  const steps = () => {
    const { classes, chances } = state(), names = model.get("_classes");
    return tourSteps(sizes, descendingOf(chances).map((i) => [classes[i], names[classes[i]]]));
  };

  function set(view) {
    const values = typeof view === "function" ? view(state()) : view;
    setAll(model, values);
    model.save_changes();
  }
  function go(step) {
    const all = steps();
    const to = Math.max(0, Math.min(all.length, step));
    if (to) {
      const { set: view } = all[to - 1];
      setAll(model, typeof view === "function" ? view(state()) : view);
    }
    set({ step: to });
  }

  function draw() {
    const step = Math.min(model.get("step"), steps().length), all = steps();
    back.hidden = end.hidden = step === 0;
    next.hidden = step === all.length;
    next.textContent = step ? "Next" : `Take the tour, ${all.length} steps`;
    count.textContent = step ? `${step} of ${all.length}` : "";
    node.classList.toggle("begun", step > 0);
    if (node.dataset.step === String(step)) return; // its buttons keep the focus
    node.dataset.step = String(step);
    title.textContent = step ? all[step - 1].title : "";
    text.replaceChildren(...(step ? all[step - 1].say.map((part) =>
      typeof part === "string" ? part : h("button", { type: "button", className: "phrase", onclick: () => set(part[1]) }, part[0])) : []));
  }
  signal.addEventListener("abort", () => node.remove());
  return { node, draw };
}
