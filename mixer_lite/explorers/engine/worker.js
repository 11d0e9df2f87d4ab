// The worker's side: questions in, answers out. A newer question takes the place of an older one of
// its kind, whether that waits or is being answered; short ones go before the rest of a long one.

let mixer = null; // the network of this page
let settings = null; // how its photographs are prepared
let influence = null; // made when first asked for

// Which patch stands at each place (S), where they are shuffled.
const orderOf = ({ shuffle = null }) => (shuffle === null ? null : randperm(mixer.S, shuffle));
const input = (picture) => inputOf(picture.pixels, mixer, settings, picture.covered, orderOf(picture));

// Answers are objects, or iterators that yield parts (or null, for a rest) and return the whole.
const ANSWERS = {
  load({ sizes, config, weights, kernel }) {
    // From a page as text, from a notebook's message as they are.
    const bytes = (sent) => typeof sent === "string" ? Uint8Array.from(atob(sent), (letter) => letter.charCodeAt(0))
      : new Uint8Array(sent.buffer, sent.byteOffset, sent.byteLength).slice();
    settings = config;
    mixer = new MlpMixer(sizes, new Uint16Array(bytes(weights).buffer), bytes(kernel));
    return { arithmetic: mixer.math.name };
  },
  square: ({ rgba, width, height }) => ({ pixels: squareOf(rgba, width, height, settings) }),
  logits: ({ picture }) => ({ logits: mixer.logits(input(picture)) }),
  compare({ picture, off }) { // all units on, and some off
    const image = input(picture);
    return { before: mixer.logits(image), after: mixer.logits(image, off) };
  },
  explain: ({ picture, off }) => ({ ...mixer.explain(input(picture), off), order: orderOf(picture) }),
  units: ({ picture, block, off }) => mixer.unitResponses(input(picture), block, off),
  occlusion: ({ picture, classIndex }) => mixer.occlusion(input(picture), classIndex),
  // The way through the network: what explore_mixer's strip and its open station show.
  way({ picture, station, choice }) {
    const image = input(picture), answer = explainWay(mixer, image);
    return { ...answer, sum: SUMS[station](mixer, answer.way, choice, image) };
  },
  // block: null for the whole network, whose estimates are refined to exact numbers or not.
  influence({ picture, block, tokens, refine }) {
    influence ??= new Influence(mixer);
    influence.trace(input(picture));
    return block === null ? influence.ofWhole(tokens, refine) : influence.ofBlock(block, tokens);
  },
};

const waiting = new Map(); // kind -> question
const begun = new Map(); // kind -> { id, iterator }
const { port1: later, port2: now } = new MessageChannel();
later.onmessage = work;

onmessage = ({ data: question }) => {
  for (const older of [waiting, begun])
    if (older.has(question.kind)) {
      postMessage({ id: older.get(question.kind).id, replaced: true });
      older.delete(question.kind);
    }
  waiting.set(question.kind, question);
  now.postMessage(null); // after the questions that have come meanwhile
};

function work() {
  const [kind] = [...waiting.keys(), ...begun.keys()];
  if (kind === undefined) return;
  const { id } = waiting.get(kind) ?? begun.get(kind), start = performance.now();
  const tell = (answer) => postMessage({ id, ...answer, milliseconds: performance.now() - start });
  try {
    if (waiting.has(kind)) {
      const answer = ANSWERS[kind](waiting.get(kind));
      if (typeof answer.next === "function") begun.set(kind, { id, iterator: answer });
      else tell({ answer });
      waiting.delete(kind);
    } else {
      const { done, value } = begun.get(kind).iterator.next();
      if (done) begun.delete(kind);
      if (value) tell(done ? { answer: value } : { part: value });
    }
  } catch (error) {
    waiting.delete(kind);
    begun.delete(kind);
    tell({ error: String(error) });
  }
  if (waiting.size + begun.size) now.postMessage(null);
}
