// What is to be seen: a photograph's numbers as they were and as they are, or the mean of several.

const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

// What Python sent of one photograph, ready to read; each entry is opened once.
const openEntries = new WeakMap();
function opened(entry) {
  if (!openEntries.has(entry)) {
    const arrays = ["evidence", "logits", "probabilities", "depth", "pixels", "order"];
    const ready = { ...entry };
    for (const name of arrays) if (name in entry) ready[name] = unpack(entry[name]).values;
    openEntries.set(entry, ready);
  }
  return openEntries.get(entry);
}

// The mean of all photographs' numbers and pixels, as if it were one photograph; the mean of the
// logits is the mean of the evidence, plus the bias.
let averaged = { of: null, entry: null };
function average(photographs) {
  if (averaged.of === photographs) return averaged.entry;
  const entries = photographs.map(opened), first = entries[0], count = entries.length;
  const classes = first.classes.filter((k) => entries.every((entry) => entry.classes.includes(k)));
  const mean = (read, length) => Float32Array.from({ length }, (_, i) => entries.reduce((sum, entry) => sum + read(entry, i), 0) / count);
  const K = first.logits.length, S = first.evidence.length / first.classes.length, depths = first.depth.length / first.classes.length;
  const probabilities = mean((entry, i) => entry.probabilities[i], K);
  const entry = {
    label: `mean of ${count} photographs`, classes, probabilities,
    top: probabilities.indexOf(Math.max(...classes.map((k) => probabilities[k]))),
    logits: mean((entry, i) => entry.logits[i], K),
    evidence: mean((entry, i) => entry.evidence[entry.classes.indexOf(classes[Math.floor(i / S)]) * S + (i % S)], classes.length * S),
    depth: mean((entry, i) => entry.depth[Math.floor(i / classes.length) * entry.classes.length + entry.classes.indexOf(classes[i % classes.length])], depths * classes.length),
    pixels: mean((entry, i) => entry.pixels[i], first.pixels.length),
  };
  averaged = { of: photographs, entry };
  return entry;
}

// What is to be seen now: the photograph as it was, and as it is with patches covered or moved.
function seen(model) {
  if (model.get("averaged")) {
    const base = average(model.get("_photographs")), chosen = model.get("class_index") ?? base.top;
    const other = otherThan(base, chosen, model.get("rather_than"));
    return { base, now: base, changed: false, chosen, other, shows: model.get("shows"), covered: [], order: null, waiting: false };
  }
  const base = opened(model.get("_photographs")[model.get("image")]);
  const covered = model.get("covered"), shuffle = model.get("shuffle");
  const changed = covered.length > 0 || shuffle !== null;
  const chosen = model.get("class_index") ?? base.top, shows = model.get("shows");
  const other = otherThan(base, chosen, model.get("rather_than"));
  const sent = model.get("_now");
  const answer = sent && sent.image === model.get("image") ? opened(sent) : null;
  // Until Python has answered, the page shows what it last said of this photograph.
  const needed = shows === "difference" ? [chosen, other] : [chosen];
  const now = answer && (changed || !needed.every((k) => base.classes.includes(k))) ? answer : base;
  const order = changed && answer && answer.shuffle === shuffle ? answer.order : null;
  const waiting = changed && !(answer && answer.shuffle === shuffle && same(answer.covered, covered));
  return { base, now, changed, chosen, other, shows, covered, order, waiting };
}

// The class that another is compared with: the one that was chosen for it, else the most probable
// other one of the photograph as it was.
function otherThan(base, chosen, wanted) {
  if (wanted !== null && wanted !== chosen) return wanted;
  return base.probabilities.reduce((best, p, k) => (k !== chosen && !(p <= base.probabilities[best]) ? k : best), -1);
}

// The evidence of a class, (gh gw) numbers, or null where Python has not sent it.
function evidenceOf(entry, chosen, tokens) {
  const k = entry.classes.indexOf(chosen);
  return k < 0 ? null : entry.evidence.subarray(k * tokens, (k + 1) * tokens);
}

// What the map shows of an entry: evidence as it is, or less its mean, or less another class's.
function mapOf(entry, { shows, chosen, other }, tokens) {
  const own = evidenceOf(entry, chosen, tokens);
  if (!own || shows === "evidence") return own;
  if (shows === "deviation") {
    const mean = meanOf(own);
    return own.map((e) => e - mean);
  }
  const less = evidenceOf(entry, other, tokens);
  return less && own.map((e, t) => e - less[t]);
}

const meanOf = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const largest = (values) => (values ?? []).reduce((top, x) => Math.max(top, Math.abs(x)), 0);
