// Puts the page together: one slider for all episodes.

const PLAY_MS = 450;

class Viewer {
  constructor(data) {
    this.episodes = data.map((one) => new Episode(one));
    this.stops = [...new Set(this.episodes.flatMap((episode) => episode.states.map((state) => state.read)))].sort((a, b) => a - b);
    this.differs = this.episodes.length === 2 ? firstDifference(...this.episodes) : null;
    this.names = agentNames(data);
    this.stop = this.firstStop();
    this.only = null;
    this.timer = null;
    this.details = new Details(byId("details"));
    this.build();
    this.listen();
    this.update();
  }

  /** Where the texts part; else the end; or what the address asks for (#step=12). */
  firstStop() {
    const asked = /^#step=(\d+)$/.exec(location.hash);
    if (asked) return Math.min(Number(asked[1]), this.stops.length - 1);
    const parted = this.differs === null ? -1 : this.stops.findIndex((read) => read > this.differs + 1);
    return parted < 0 ? this.stops.length - 1 : Math.min(parted + 1, this.stops.length - 1);
  }

  build() {
    describePage(this.episodes, this.names, this.differs !== null);
    const longest = Math.max(...this.episodes.map((episode) => episode.count));
    const scale = spikeScale(this.episodes);
    this.texts = this.episodes.map((episode, i) => new TextView(episode, this.names[i], this.differs));
    this.grids = this.episodes.map((episode) => new HeadGrid(episode, longest, (head) => this.choose(head)));
    this.timelines = this.episodes.map((episode, i) => new Timeline(episode, this.names[i], this.stops, scale, (stop) => this.go(stop)));
    this.states = this.episodes.map(() => make("p", { class: "state" }));
    byId("timelines").append(...this.timelines.map((timeline) => timeline.element));
    byId("episodes").append(...this.episodes.map((episode, i) => make(
      "article", { class: "episode", "aria-label": this.names[i] },
      make("div", { class: "name" }, make("h2", { text: this.names[i] }), verdict(episode.data)),
      this.states[i], this.grids[i].element, this.texts[i].element,
    )));
    byId("episodes").classList.toggle("two", this.episodes.length === 2);
    byId("step").max = this.stops.length - 1;
    document.querySelectorAll("[data-sample]").forEach((sample) => sample.style.setProperty("--share", sample.dataset.sample));
  }

  listen() {
    byId("step").addEventListener("input", (event) => this.go(Number(event.target.value)));
    byId("play").addEventListener("click", () => this.toggle());
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("resize", () => this.update());
    window.addEventListener("hashchange", () => { this.stop = this.firstStop(); this.update(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.update());
    this.texts.forEach((view) => this.listenTo(view));
    document.addEventListener("click", (event) => {
      if (!event.target.closest(".t, .details")) this.details.hide();
    });
  }

  /** Hovering shows a token, a click or tap keeps it open, the keyboard shows the focused one. */
  listenTo(view) {
    const show = (pinned) => (event) => {
      const token = event.target.closest(".t");
      if (!token || (this.details.pinned && !pinned)) return;
      this.details.show(view, Number(token.dataset.i), this.moments.get(view), pinned);
    };
    view.element.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") show(false)(event); });
    view.element.addEventListener("pointerleave", () => { if (!this.details.pinned) this.details.hide(); });
    view.element.addEventListener("click", show(true));
    view.element.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !event.relatedTarget.closest(".t")) this.details.hide();
    });
    view.element.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) show(true)(event); });
  }

  key(event) {
    if (event.key === "Escape") this.details.hide();
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, summary, .t, .head")) return;
    const to = { ArrowLeft: this.stop - 1, ArrowRight: this.stop + 1, Home: 0, End: this.stops.length - 1 }[event.key];
    if (to !== undefined) this.go(to);
    else if (event.key === " " && !event.target.closest("button")) this.toggle();
    else return;
    event.preventDefault();
  }

  choose(head) {
    this.only = head;
    this.update();
  }

  /** Go to a stop by hand, which pauses. */
  go(stop) {
    this.pause();
    this.show(stop);
  }

  show(stop) {
    this.stop = Math.max(0, Math.min(this.stops.length - 1, stop));
    this.update();
  }

  toggle() {
    if (this.timer) return this.pause();
    if (this.stop === this.stops.length - 1) this.show(0);
    this.timer = setInterval(() => {
      this.show(this.stop + 1);
      if (this.stop === this.stops.length - 1) this.pause();
    }, PLAY_MS);
    this.label("Pause", "⏸");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.label("Play", "▶");
  }

  label(name, sign) {
    byId("play").setAttribute("aria-label", name);
    byId("play").textContent = sign;
  }

  update() {
    const read = this.stops[this.stop];
    this.moments = new Map();
    this.episodes.forEach((episode, i) => {
      const moment = episode.at(read);
      this.moments.set(this.texts[i], moment);
      this.texts[i].update(moment, this.only);
      this.grids[i].update(moment, this.only);
      this.timelines[i].update(this.stop);
      this.states[i].textContent = describeMoment(episode, moment);
    });
    const slider = byId("step"), now = `step ${this.stop} of ${this.stops.length - 1} · ${read} tokens read`;
    slider.value = this.stop;
    slider.setAttribute("aria-valuetext", now);
    byId("now").textContent = now;
    this.details.update(this.moments);
  }
}

/** What each agent is called: by name, where they share it also by budget, then by settings or number. */
function agentNames(data) {
  const tries = [(one) => one.agent, (one) => `${one.agent}, ${one.budget} slots`, (one) => `${one.agent} (${one.agent_source})`];
  for (const name of tries) {
    const names = data.map(name);
    if (new Set(names).size === names.length) return names;
  }
  return data.map((one, i) => `${one.agent}, episode ${i + 1}`);
}

/** Title, lead and origin of the page. */
function describePage(episodes, names, differ) {
  const [first] = episodes, { data } = first;
  const title = `What the LLM still remembers: ${names.join(" against ")}`;
  document.title = `${title} (kv-gym)`;
  byId("title").textContent = title;
  const budgets = [...new Set(episodes.filter((one) => one.data.evicts).map((one) => one.data.budget))];
  const cache = budgets.length ? `may keep only ${budgets.join(" or ")} tokens per head` : "keeps every token";
  const choice = budgets.length ? ` Every ${data.evict_every} tokens an agent chooses ${data.evict_every} that each head forgets.` : "";
  const forced = data.mode === "replay" ? " The text is that of the full cache; only the answer is written anew." : "";
  byId("lead").textContent = `An LLM (${data.model.name}) solves one problem (${data.problem}), but its key-value cache ${cache}.${choice}${forced}`
    + ` With its full cache it is ${data.correct_full === 1 ? "right" : data.correct_full === 0 ? "wrong" : `${percent(data.correct_full)} right`}.`;
  byId("legend-differs").hidden = !differ;
  byId("origin").append(...episodes.map((episode) => origin(episode.data)));
}

function origin(data) {
  const facts = [
    ["agent", data.agent_source], ["environment", `${data.env_id}, ${data.mode}, ${data.split} split, seed ${data.seed}`],
    ["model", `${data.model.name}, ${data.model.dtype}, ${data.model.fingerprint.slice(0, 16)}`],
    ["command", data.command], ["recorded", data.recorded],
    ["versions", Object.entries(data.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
    ["commit", data.git ? `${data.git.commit}${data.git.dirty ? " (changed)" : ""}` : "unknown"], ["tokens", data.tokens_sha256],
  ];
  return make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}

/** Right or wrong, the answer and the gold one. */
function verdict(data) {
  const [kind, sign] = data.correct === 1 ? ["right", "✓ right"] : data.correct === 0 ? ["wrong", "✗ wrong"] : ["partly", `${percent(data.correct)} right`];
  const answer = data.answer === null ? "no answer" : `answers ${data.answer}`;
  return make("p", { class: `verdict ${kind}` }, make("b", { text: sign }), make("span", { text: ` ${answer}; gold answer ${data.gold}` }));
}

/** Where an episode stands, in words. */
function describeMoment(episode, moment) {
  if (!episode.data.evicts) return `holds all ${moment.read} tokens; nothing is ever evicted`;
  if (!moment.step) return `holds all ${moment.read} tokens; nothing evicted yet`;
  const spikes = PAGE.measures.filter(({ name }) => name in moment.step).map(({ name, title, unit }) => (
    `${title} ${unit ? `${short(moment.step[name])} ${unit}` : percent(moment.step[name])}`)).join(", ");
  const where = moment.past ? `ended after step ${moment.index}` : moment.over ? `step ${moment.index}, the last` : `step ${moment.index}`;
  return `${where}: each head holds ${episode.data.budget} + ${episode.data.evict_every} new of ${moment.read} tokens; ${spikes}`;
}

window.viewer = new Viewer(PAGE.episodes);
