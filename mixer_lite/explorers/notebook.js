// In a notebook Python answers; and where it can, an engine in the page answers first.

// What explorers see as their model. What a reader chooses goes to Python, and what Python sets comes
// here. Python's answers take the place of the engine's, but only those to the reader's last choice.
class NotebookModel extends AnsweringModel {
  constructor(kernel) {
    super({}, null);
    this.kernel = kernel; // anywidget's model
    this.here = this.alone = false; // until the network has come
    this.mine = new Map(); // chosen here, not yet answered by Python: name -> its turn, Infinity: not sent
    this.stop = new AbortController();
    listen(kernel, "_answered", this.stop.signal, () => this.settled(kernel.get("_answered")));
    const receive = (message, buffers) => this.receive(message, buffers).catch(console.warn);
    kernel.on("msg:custom", receive);
    this.stop.signal.addEventListener("abort", () => kernel.off("msg:custom", receive));
  }

  get(name) {
    if (!(name in this.state)) {
      this.state[name] = this.told[name] = this.kernel.get(name);
      listen(this.kernel, name, this.stop.signal, () => {
        // While Python has questions to answer, its answers are to older ones.
        const late = this.here && this.mine.size && AnsweringModel.answers.includes(name);
        if (!late && !this.mine.has(name)) this.take(name);
      });
    }
    return this.state[name];
  }
  on(event, callback) {
    if (event.startsWith("change:")) this.get(event.slice(7));
    super.on(event, callback);
  }

  // By the explorer, or by the engine's answer.
  set(name, value) {
    if (this.get(name) === value) return;
    if (!AnsweringModel.answers.includes(name)) this.mine.set(name, Infinity);
    super.set(name, value);
  }

  // What Python says now.
  take(name) {
    const told = this.kernel.get(name);
    if (told === this.state[name]) return;
    const value = this.here && this.shownOf ? this.shownOf(name, told) : told;
    const own = this.state[name], list = Array.isArray(value) && !name.startsWith("_"); // of plain numbers
    if (!(list && JSON.stringify(value) === JSON.stringify(own))) super.set(name, value);
  }

  // The engine is asked at once, Python when the hand rests.
  save_changes() {
    if (!this.here) return this.push();
    super.save_changes();
    clearTimeout(this.timer);
    this.since ??= performance.now();
    this.timer = setTimeout(() => this.push(), Math.min(RESTED, this.since + LATEST - performance.now()));
  }
  push() {
    clearTimeout(this.timer);
    this.since = undefined;
    if (![...this.mine.values()].includes(Infinity)) return;
    const turn = this.kernel.get("_turn") + 1; // several views of one explorer count together
    for (const [name, sent] of this.mine) {
      if (sent !== Infinity) continue;
      this.mine.set(name, turn);
      this.kernel.set(name, this.state[name]);
    }
    this.kernel.set("_turn", turn);
    this.kernel.save_changes();
  }

  async open() {} // Python opens a reader's file

  // Python has answered all up to a turn, and its answers have come.
  settled(answered) {
    for (const [name, turn] of this.mine) if (turn <= answered) this.mine.delete(name);
    if (this.mine.size) return;
    this.shown = this.turn; // an answer of the engine to these questions would come too late
    for (const name of Object.keys(this.state)) this.take(name);
  }

  async receive({ network, worker }, buffers) {
    if (!network || this.engine) return;
    const [weights, kernel] = buffers;
    this.engine = new Engine(worker, { ...network, weights, kernel });
    this.stop.signal.addEventListener("abort", () => this.engine.close());
    const { arithmetic } = await this.engine.ready;
    if (arithmetic === "WebAssembly") this.answerHere();
    else this.engine.close(); // plain JavaScript is no faster than Python
  }

  // From now on the engine answers first. A drag that began before goes on here.
  answerHere() {
    settle(this);
    this.here = true;
    this.push();
  }

  // Ask for the network, after what is drawn is on the screen.
  begin() {
    requestAnimationFrame(() => setTimeout(() => this.stop.signal.aborted || this.kernel.send({ ask: "network" })));
  }
  end() {
    this.push();
    this.stop.abort();
  }
}

export default {
  render({ model: kernel, el }) {
    const model = new NotebookModel(kernel), stop = explorer.render({ model, el });
    el.model = model;
    model.begin();
    return () => {
      stop();
      model.end();
      delete el.model; // JupyterLab keeps the elements of outputs that it replaced
    };
  },
};
