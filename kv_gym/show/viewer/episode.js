// A recorded episode, and what its cache holds at any moment.

const NEVER = 0xffffffff;
const DISAGREE = 1.5; // nats, as in the env's loss spike

class Episode {
  constructor(data) {
    this.data = data;
    this.layers = data.model.n_layers;
    this.heads = data.model.n_kv_heads;
    this.nHeads = this.layers * this.heads;
    this.count = data.tokens.ids.length;
    this.slots = data.budget + data.evict_every;
    this.states = [{ read: this.slots, shown: this.slots + 1 }]; // before the first eviction, then after each step
    for (const step of data.steps) {
      this.states.push({ read: step.length, shown: this.states.at(-1).shown + step.written, step });
    }
    this.gone = this.findGone();
  }

  /** For each head (layer * heads + head): the state in which each position was no longer held. */
  findGone() {
    const gone = Array.from({ length: this.nHeads }, () => new Uint32Array(this.count).fill(NEVER));
    this.data.steps.forEach((step, index) => {
      step.evicted.forEach((heads, layer) => heads.forEach((positions, head) => {
        const row = gone[layer * this.heads + head];
        for (const position of positions) row[position] = index + 1;
      }));
    });
    return gone;
  }

  /** What is there once `read` tokens have been read: the state's index, tokens read and shown, whether it is over. */
  at(read) {
    let index = 0;
    while (index + 1 < this.states.length && this.states[index + 1].read <= read) index += 1;
    const state = this.states[index];
    const now = Math.min(read, state.read);
    const over = index === this.states.length - 1;
    return { index, step: state.step, read: now, shown: Math.min(state.shown, now + 1), over, past: over && read > state.read };
  }

  /** Whether a head holds a position at `moment`. */
  holds(head, position, moment) {
    return position < moment.read && this.gone[head][position] > moment.index;
  }

  /** Share of the heads that hold a position, 0 to 1; of one head only where `only` is not null. */
  share(position, moment, only = null) {
    if (only !== null) return this.holds(only, position, moment) ? 1 : 0;
    let held = 0;
    for (let head = 0; head < this.nHeads; head += 1) if (this.holds(head, position, moment)) held += 1;
    return held / this.nHeads;
  }

  /** Slots that a head holds. */
  nHeld(head, moment) {
    let held = 0;
    for (let position = 0; position < moment.read; position += 1) if (this.gone[head][position] > moment.index) held += 1;
    return held;
  }

  /** Whether evicting and full cache think very differently of a token. */
  disagrees(position) {
    const { surprisal, surprisal_full: full } = this.data.tokens;
    return Math.abs(surprisal[position] - full[position]) > DISAGREE;
  }

  /** Steps that wrote a token on which the caches disagree. */
  oddSteps() {
    const odd = new Set();
    this.states.forEach(({ shown, step }, index) => {
      if (!step) return;
      for (let i = this.states[index - 1].shown; i < shown; i += 1) if (this.disagrees(i)) odd.add(step);
    });
    return odd;
  }

  /** Index of the step that wrote a position, -1 for what was there before the first eviction. */
  writtenIn(position) {
    return this.states.findIndex((state) => position < state.shown) - 1;
  }
}

/** First position at which the tokens of two episodes differ; null where none does. */
function firstDifference(one, other) {
  const a = one.data.tokens.ids, b = other.data.tokens.ids;
  const length = Math.max(a.length, b.length);
  for (let i = 0; i < length; i += 1) if (a[i] !== b[i]) return i;
  return null;
}
