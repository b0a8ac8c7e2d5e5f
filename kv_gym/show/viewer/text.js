// The text of an episode: a span a token, tinted by the share of heads that hold it.

class TextView {
  constructor(episode, name, differsFrom) {
    this.episode = episode;
    this.element = make("div", { class: "texts" });
    this.tokens = [];
    this.shares = new Float32Array(episode.count).fill(-1);
    this.shown = -1;
    const n = episode.data.n_prompt;
    this.addPart("Problem", "prompt", 0, n, name, differsFrom);
    const writer = episode.data.mode === "replay" ? "replayed" : "written by the LLM";
    this.addPart(`Reasoning, ${writer}`, "reasoning", n, episode.count, name, differsFrom);
    this.tokens[0].setAttribute("tabindex", "0");
    roving(this.element, ".t", (from, key) => this.neighbour(Number(from.dataset.i), key));
  }

  addPart(title, kind, from, to, name, differsFrom) {
    const text = make("div", { class: `text ${kind}`, role: "group", "aria-label": `${title}, ${name}` });
    for (let i = from; i < to; i += 1) {
      if (i === differsFrom) text.append(make("span", { class: "differs", role: "img", "aria-label": "from here the two texts differ", text: "≠" }));
      const token = this.makeToken(i);
      if (differsFrom !== null && i >= differsFrom) token.classList.add("own");
      text.append(token);
      this.tokens.push(token);
    }
    this.element.append(make("section", {}, make("h3", { text: title }), text));
  }

  makeToken(i) {
    const piece = this.episode.data.tokens.text[i] || "\u25ab"; // a part of a character
    const token = make("span", { class: "t", "data-i": i, tabindex: "-1", text: piece });
    if (piece.includes("\n")) token.classList.add("newline");
    if (this.episode.disagrees(i)) token.classList.add("odd");
    return token;
  }

  /** Show the text at a moment, through all heads or through one. */
  update(moment, only) {
    if (moment.shown !== this.shown) this.showUpTo(moment.shown);
    for (let i = 0; i < moment.shown; i += 1) {
      const unread = i >= moment.read; // the newest token is chosen, and read in the next step
      const share = unread ? 1 : this.episode.share(i, moment, only);
      if (share === this.shares[i]) continue;
      this.shares[i] = share;
      this.tokens[i].style.setProperty("--share", share.toFixed(3));
    }
  }

  showUpTo(shown) {
    const [from, to] = this.shown < 0 ? [0, this.tokens.length] : [Math.min(shown, this.shown), Math.max(shown, this.shown)];
    for (let i = from; i < to; i += 1) this.tokens[i].classList.toggle("later", i >= shown);
    this.element.querySelector(".caret")?.classList.remove("caret");
    if (shown < this.tokens.length) this.tokens[shown - 1].classList.add("caret");
    this.shown = shown;
  }

  /** The token an arrow key leads to; up and down go to the nearest of the next line. */
  neighbour(i, key) {
    const last = this.shown - 1;
    const simple = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: last }[key];
    if (simple !== undefined) return this.tokens[Math.max(0, Math.min(last, simple))];
    const way = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!way) return null;
    const left = this.tokens[i].offsetLeft;
    let best = null, line = null;
    for (let j = i + way; j >= 0 && j <= last; j += way) {
      const { offsetTop: top, offsetLeft } = this.tokens[j];
      if (top === this.tokens[i].offsetTop) continue;
      line ??= top;
      if (top !== line) break;
      if (!best || Math.abs(offsetLeft - left) < Math.abs(best.offsetLeft - left)) best = this.tokens[j];
    }
    return best ?? this.tokens[i];
  }
}
