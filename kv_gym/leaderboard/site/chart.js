// Accuracy against budget, one curve with its band per agent.

const COLOURS = 8, SHAPES = ["circle", "square", "diamond", "triangle"], BEST = 6;
const WIDE = { width: 640, height: 420, left: 40, right: 14, top: 34, bottom: 44 };
const NARROW = { width: 330, height: 340, left: 32, right: 6, top: 34, bottom: 44 };
const narrow = matchMedia("(max-width: 640px)");
let BOX = WIDE;

class Chart {
  constructor(board, cells, env) {
    this.board = board;
    this.cells = cells;
    this.env = env;
    this.looks = looks(board.standings);
    this.on = new Set();
    this.best();
    narrow.addEventListener("change", () => this.draw());
    byId("legend-top").addEventListener("click", () => { this.best(); this.draw(); });
    byId("legend-all").addEventListener("click", () => { this.on = new Set(this.looks.keys()); this.draw(); });
    byId("legend-none").addEventListener("click", () => { this.on = new Set(); this.draw(); });
  }

  best() {
    const entries = this.board.standings.filter(({ role }) => role === "entry").sort((a, b) => b.score.value - a.score.value);
    const lines = this.board.standings.filter(({ role }) => role === "line");
    this.on = new Set([...entries.slice(0, BEST), ...lines].map(({ slug }) => slug));
  }

  budgets() {
    return this.cells.filter((cell) => cell.env_id === this.env).map((cell) => cell.budget).sort((a, b) => a - b);
  }

  draw() {
    const budgets = this.budgets();
    if (!budgets.length) return;
    BOX = narrow.matches ? NARROW : WIDE;
    const node = byId("chart");
    node.setAttribute("viewBox", `0 0 ${BOX.width} ${BOX.height}`);
    this.x = scaleX(budgets);
    node.replaceChildren(axes(budgets, this.x), ...this.curves());
    this.legend();
    this.read(null);
  }

  curves() {
    const shown = this.board.standings.filter(({ slug }) => this.on.has(slug) && this.looks.has(slug));
    return shown.reverse().map((one) => this.curve(one)); // the best is drawn last, on top
  }

  points(one) {
    return this.budgets().map((budget) => cellOf(one, { env_id: this.env, budget })).filter(({ accuracy }) => accuracy)
      .map(({ budget, accuracy }) => ({ budget, x: this.x(budget), ...accuracy }));
  }

  curve(one) {
    const points = this.points(one), look = this.looks.get(one.slug);
    const pair = ({ x }, value) => `${x.toFixed(1)},${y(value).toFixed(1)}`;
    const band = [...points.map((p) => pair(p, p.high)), ...points.toReversed().map((p) => pair(p, p.low))].join(" ");
    const line = points.map((p) => pair(p, p.value)).join(" ");
    const said = points.map((p) => `${p.budget} slots ${number(100 * p.value, 0)}% ${bracket(p, 0, 100)}`).join(", ");
    const listen = { pointerenter: () => this.light(one.slug), pointerleave: () => this.light(null),
      focus: () => this.light(one.slug), blur: () => this.light(null) };
    return svg("g", { class: `curve ${one.role}`, "data-slug": one.slug, tabindex: "0", role: "img", on: listen,
      "aria-label": `${one.title}: ${said}`, style: { "--colour": look.colour } },
    svg("polygon", { class: "band", points: band }),
    svg("polyline", { class: "reach", points: line }),
    svg("polyline", { class: "stroke", points: line, "stroke-dasharray": look.dash }),
    ...points.map((p) => marker(look.shape, p.x, y(p.value))));
  }

  // Bring one curve to the front of attention, and say its numbers.
  light(slug) {
    byId("chart").classList.toggle("lit", slug !== null);
    for (const node of document.querySelectorAll("#chart .curve, #legend button")) {
      node.classList.toggle("hot", node.dataset.slug === slug);
    }
    this.read(slug);
  }

  read(slug) {
    const one = this.board.standings.find((other) => other.slug === slug);
    const reading = byId("reading");
    if (!one) { reading.replaceChildren("Point at a curve, or reach it with the Tab key, to read its numbers."); return; }
    reading.replaceChildren(el("b", {}, one.title), ...this.points(one).map((p) =>
      el("span", {}, ` ${p.budget}: ${number(100 * p.value, 0)}% ${bracket(p, 0, 100)}`)));
  }

  legend() {
    byId("legend").replaceChildren(...[...this.looks].map(([slug, look]) => {
      const one = this.board.standings.find((other) => other.slug === slug);
      const sample = svg("svg", { viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" },
        svg("line", { x1: 0, x2: 28, y1: 6, y2: 6, class: "stroke", "stroke-dasharray": look.dash }), marker(look.shape, 14, 6));
      return el("li", {}, el("button", { type: "button", "data-slug": slug, "aria-pressed": String(this.on.has(slug)),
        style: { "--colour": look.colour },
        on: { click: () => this.toggle(slug), pointerenter: () => this.on.has(slug) && this.light(slug),
          pointerleave: () => this.light(null), focus: () => this.on.has(slug) && this.light(slug), blur: () => this.light(null) } },
      sample, el("span", {}, one.title)));
    }));
  }

  toggle(slug) {
    if (!this.on.delete(slug)) this.on.add(slug);
    this.draw();
    byId("legend").querySelector(`button[data-slug="${CSS.escape(slug)}"]`).focus();
  }
}

// A colour, a shape and a dash for everyone; after eight entries colours come again with another shape.
function looks(standings) {
  const found = new Map();
  let entries = 0, lines = 0;
  for (const one of standings) {
    if (one.role === "line") {
      found.set(one.slug, { colour: "var(--muted)", shape: SHAPES[lines % 4], dash: ["6 4", "2 3", "9 3 2 3"][lines % 3] });
      lines += 1;
    } else if (one.cells.some(({ accuracy }) => accuracy)) {
      found.set(one.slug, { colour: `var(--s${entries % COLOURS})`,
        shape: SHAPES[(entries + Math.floor(entries / COLOURS)) % 4], dash: one.role === "incomplete" ? "1 4" : null });
      entries += 1;
    }
  }
  return found;
}

const y = (value) => BOX.top + (1 - value) * (BOX.height - BOX.top - BOX.bottom);

// Budgets by their logarithm; a single one in the middle.
function scaleX(budgets) {
  const [low, high] = [Math.log2(budgets[0]), Math.log2(budgets.at(-1))], inset = BOX.width / 25;
  const width = BOX.width - BOX.left - BOX.right - 2 * inset;
  return (budget) => BOX.left + inset + width * (high > low ? (Math.log2(budget) - low) / (high - low) : 0.5);
}

function axes(budgets, x) {
  const { left, width, right, height, bottom } = BOX;
  const rows = [0, 0.25, 0.5, 0.75, 1].flatMap((value) => [
    svg("line", { class: value ? "grid" : "base", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${100 * value}`)]);
  const ticks = budgets.flatMap((budget) => [
    svg("line", { class: "grid", x1: x(budget), x2: x(budget), y1: y(1), y2: y(0) }),
    svg("text", { x: x(budget), y: height - bottom + 18, "text-anchor": "middle" }, budget)]);
  return svg("g", { class: "axes", "aria-hidden": "true" }, ...rows, ...ticks,
    svg("text", { class: "title", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "budget, slots per layer and KV head"),
    svg("text", { class: "title", x: 2, y: 14 }, "accuracy, %"));
}

function marker(shape, x, top) {
  const r = 4.2, at = (points) => points.map(([dx, dy]) => `${(x + dx * r).toFixed(1)},${(top + dy * r).toFixed(1)}`).join(" ");
  if (shape === "circle") return svg("circle", { class: "dot", cx: x, cy: top, r });
  if (shape === "square") return svg("polygon", { class: "dot", points: at([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]) });
  if (shape === "diamond") return svg("polygon", { class: "dot", points: at([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]) });
  return svg("polygon", { class: "dot", points: at([[0, -1.25], [1.15, 0.9], [-1.15, 0.9]]) });
}
