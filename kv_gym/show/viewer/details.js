// What is known of one token: a card beside it.

const MOST_CELLS = 64; // heads that are drawn one by one

class Details {
  constructor(element) {
    this.element = element;
    this.token = null;
    this.view = null;
    this.pinned = false;
  }

  show(view, i, moment, pinned = false) {
    this.view = view;
    this.token = i;
    this.pinned = pinned;
    this.fill(moment);
    this.element.hidden = false;
    this.place(view.tokens[i]);
  }

  hide() {
    this.element.hidden = true;
    this.token = null;
    this.pinned = false;
  }

  /** Follow the slider. */
  update(moments) {
    if (this.token === null) return;
    const moment = moments.get(this.view);
    if (this.token >= moment.shown) this.hide();
    else this.fill(moment);
  }

  fill(moment) {
    const { episode } = this.view, i = this.token, { tokens, n_prompt: nPrompt } = episode.data;
    const step = episode.writtenIn(i);
    const origin = i < nPrompt ? "problem" : step < 0 ? "written before the first eviction" : `written in step ${step + 1}`;
    const unread = i >= moment.read;
    let held = 0;
    for (let head = 0; head < episode.nHeads; head += 1) if (episode.holds(head, i, moment)) held += 1;
    const rows = [
      ["Age", `${Math.max(0, moment.read - 1 - i)} tokens`],
      ["Held by", unread ? "not read yet" : `${held} of ${episode.nHeads} heads`],
    ];
    if (i > 0) {
      rows.push(["Surprisal, evicting", `${short(tokens.surprisal[i])} nats`]);
      rows.push(["Surprisal, full cache", `${short(tokens.surprisal_full[i])} nats`]);
      rows.push(["Entropy, full cache", `${short(tokens.entropy_full[i])} nats`]);
    }
    const list = make("dl");
    for (const [name, value] of rows) list.append(make("dt", { text: name }), make("dd", { text: value }));
    this.element.replaceChildren(
      make("p", { class: "piece" }, make("code", { text: JSON.stringify(tokens.text[i]) }), make("span", { text: `position ${i}, ${origin}` })),
      list,
      unread ? "" : this.map(i, moment),
    );
  }

  /** Which layers and heads hold it; a number is the step in which it went. */
  map(i, moment) {
    const { episode } = this.view;
    if (episode.nHeads > MOST_CELLS) return this.perLayer(i, moment);
    const grid = make("div", { class: "map" });
    grid.style.setProperty("--heads", episode.heads);
    for (let head = 0; head < episode.nHeads; head += 1) {
      if (head % episode.heads === 0) grid.append(make("span", { class: "row", text: `layer ${head / episode.heads}` }));
      const holds = episode.holds(head, i, moment);
      const [yes, no] = episode.heads <= 4 ? ["held", `gone: step ${episode.gone[head][i]}`] : ["●", episode.gone[head][i]];
      grid.append(make("span", { class: holds ? "cell held" : "cell", text: holds ? yes : no }));
    }
    return grid;
  }

  perLayer(i, moment) {
    const { episode } = this.view;
    const counts = Array.from({ length: episode.layers }, (_, layer) => {
      let held = 0;
      for (let head = 0; head < episode.heads; head += 1) if (episode.holds(layer * episode.heads + head, i, moment)) held += 1;
      return `${layer}: ${held}`;
    });
    return make("p", { class: "note", text: `Heads that hold it, by layer: ${counts.join(", ")} (of ${episode.heads} each).` });
  }

  /** Below the token, or above where there is no room; never over an edge. */
  place(token) {
    const box = token.getBoundingClientRect(), card = this.element.getBoundingClientRect();
    const width = document.documentElement.clientWidth, gap = 8;
    const left = Math.max(gap, Math.min(box.left, width - card.width - gap));
    const below = box.bottom + gap + card.height <= window.innerHeight;
    const top = below ? box.bottom + gap : Math.max(gap, box.top - card.height - gap);
    this.element.style.left = `${left + window.scrollX}px`;
    this.element.style.top = `${top + window.scrollY}px`;
  }
}
