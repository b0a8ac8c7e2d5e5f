// Layers x heads: what each holds, on the time axis of the text. Choosing one shows the text through it.

class HeadGrid {
  constructor(episode, length, onChoose) {
    this.episode = episode;
    this.length = length; // tokens of the longest text, so that two grids share their axis
    this.cells = [];
    this.grid = make("div", { class: "heads", role: "group", "aria-label": "Layers and KV heads" });
    this.grid.style.setProperty("--heads", episode.heads);
    this.addHeader();
    for (let layer = 0; layer < episode.layers; layer += 1) this.addLayer(layer, onChoose);
    this.cells[0].button.setAttribute("tabindex", "0");
    this.all = make("button", { type: "button", class: "all", text: "show all heads" });
    this.all.addEventListener("click", () => onChoose(null));
    this.note = make("p", { class: "note" });
    this.element = make("div", { class: "memory" }, make("h3", { text: "What each head holds" }), this.grid, make("div", { class: "choice" }, this.note, this.all));
    roving(this.grid, ".head", (from, key) => this.neighbour(Number(from.dataset.head), key));
  }

  addHeader() {
    this.grid.append(make("span", { class: "corner", "aria-hidden": "true" }));
    for (let head = 0; head < this.episode.heads; head += 1) {
      this.grid.append(make("span", { class: "column", "aria-hidden": "true", text: this.episode.heads <= 8 ? `head ${head}` : head }));
    }
  }

  addLayer(layer, onChoose) {
    this.grid.append(make("span", { class: "row", "aria-hidden": "true", text: `layer ${layer}` }));
    for (let head = 0; head < this.episode.heads; head += 1) {
      const index = layer * this.episode.heads + head;
      const canvas = make("canvas", { "aria-hidden": "true" });
      const button = make("button", { type: "button", class: "head", "data-head": index, "aria-pressed": "false", tabindex: "-1" }, canvas);
      button.addEventListener("click", () => onChoose(button.getAttribute("aria-pressed") === "true" ? null : index));
      this.grid.append(button);
      this.cells.push({ button, canvas });
    }
  }

  name(head) {
    return `layer ${Math.floor(head / this.episode.heads)}, KV head ${head % this.episode.heads}`;
  }

  /** Draw all heads at a moment. */
  update(moment, only) {
    const colours = { held: colour("--held-strong"), empty: colour("--gone"), later: colour("--later"), line: colour("--ink") };
    this.cells.forEach(({ button, canvas }, head) => {
      this.draw(canvas, head, moment, colours);
      button.setAttribute("aria-pressed", String(head === only));
      button.setAttribute("aria-label", `${this.name(head)} holds ${this.episode.nHeld(head, moment)} of ${moment.read} tokens`);
    });
    this.grid.classList.toggle("chosen", only !== null);
    this.all.hidden = only === null;
    this.note.textContent = only === null
      ? "Left to right: the text. Dark: held. Choose one to read the text through it."
      : `The text is tinted by ${this.name(only)} alone.`;
  }

  draw(canvas, head, moment, colours) {
    const { context, width, height } = fitted(canvas);
    const x = (position) => (position / this.length) * width;
    context.fillStyle = colours.later;
    context.fillRect(0, 0, width, height);
    context.fillStyle = colours.empty;
    context.fillRect(0, 0, x(moment.read), height);
    context.fillStyle = colours.held;
    const pixels = new Float32Array(Math.ceil(width)); // share of a pixel that is held
    for (let position = 0; position < moment.read; position += 1) {
      if (this.episode.gone[head][position] <= moment.index) continue;
      const from = x(position), to = x(position + 1);
      for (let pixel = Math.floor(from); pixel < to && pixel < pixels.length; pixel += 1) {
        pixels[pixel] += Math.min(to, pixel + 1) - Math.max(from, pixel);
      }
    }
    pixels.forEach((share, pixel) => {
      if (!share) return;
      context.globalAlpha = Math.min(1, share);
      context.fillRect(pixel, 0, 1, height);
    });
    context.globalAlpha = 1;
    context.fillStyle = colours.line;
    context.fillRect(Math.round(x(this.episode.data.n_prompt)), 0, 1, height);
  }

  neighbour(head, key) {
    const { heads, nHeads } = this.episode;
    const to = { ArrowLeft: head - 1, ArrowRight: head + 1, ArrowUp: head - heads, ArrowDown: head + heads }[key];
    return to === undefined ? null : this.cells[to >= 0 && to < nHeads ? to : head].button;
  }
}
