// The ranking, sorted by a click or a key on a column's head, filtered by the form above it.

const KINDS = { "hindsight": "knows the future", "full cache": "evicts nothing" };

class Ranking {
  constructor(board, cells, env) {
    this.board = board;
    this.cells = cells;
    this.env = env;
    this.sorted = { key: "rank", down: false };
    this.span = span(board.standings);
    byId("search").addEventListener("input", () => this.draw());
    for (const id of ["division", "kind", "lines"]) byId(id).addEventListener("change", () => this.draw());
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
  }

  columns() {
    const score = (one) => (one.score ? one.score.value : null);
    const place = (one) => this.board.standings.indexOf(one); // by division, then by rank
    const budgets = this.cells.filter((cell) => cell.env_id === this.env);
    return [
      { key: "rank", head: "Rank", value: (one) => (one.rank ? place(one) : null), draw: rankCell, cls: "rank" },
      { key: "agent", head: "Agent", value: (one) => one.title.toLowerCase(), draw: (one) => agentCell(one, this.span), cls: "agent", header: true },
      { key: "score", head: "Score", value: score, draw: scoreCell, cls: "num score", high: true },
      { key: "bar", head: barHead(this.span), label: "Score with its interval", draw: (one) => bar(one, this.span), cls: "bar" },
      ...budgets.map((cell) => ({
        key: `budget-${cell.budget}`, head: String(cell.budget), group: true, high: true,
        label: `Accuracy at a budget of ${cell.budget} slots, percent`,
        value: (one) => cellOf(one, cell).accuracy?.value ?? null,
        draw: (one) => accuracyCell(cellOf(one, cell)), cls: "num cell",
      })),
      { key: "date", head: "Date", value: (one) => one.date || null, draw: (one) => one.date, cls: "num date", high: true },
    ];
  }

  shown() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const division = byId("division").value, kind = byId("kind").value, lines = byId("lines").checked;
    return this.board.standings.filter((one) => {
      if (one.role === "line") return lines && matches(one, words);
      return (!division || one.division === division) && (!kind || one.kind === kind) && matches(one, words);
    });
  }

  order(rows) {
    const column = this.columns().find(({ key }) => key === this.sorted.key);
    const sign = this.sorted.down ? -1 : 1;
    const place = new Map(this.board.standings.map((one, index) => [one, index]));
    return rows.sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || place.get(a) - place.get(b);
      return sign * (x < y ? -1 : x > y ? 1 : 0) || place.get(a) - place.get(b);
    });
  }

  draw() {
    const columns = this.columns(), rows = this.order(this.shown());
    byId("ranking").tHead.rows[0].replaceChildren(...columns.map((column) => this.head(column)));
    byId("ranking").tBodies[0].replaceChildren(...rows.map((one) => row(one, columns)));
    const all = this.board.standings.length;
    byId("shown").textContent = !all ? "No submissions yet." : rows.length === all ? plural(all, "row") : `${rows.length} of ${plural(all, "row")} shown`;
    byId("ranking-caption").textContent =
      `Score with its 95% interval, and accuracy in percent per budget${this.env ? ` of ${this.env}` : ""}`;
  }

  head(column) {
    const { key, down } = this.sorted;
    const sort = column.value ? (key === column.key ? (down ? "descending" : "ascending") : "none") : null;
    const content = column.value
      ? el("button", { type: "button", "data-key": column.key, on: { click: () => this.sort(column) } },
        column.head, el("span", { class: "arrow", "aria-hidden": "true" }, key === column.key ? (down ? "▼" : "▲") : ""))
      : column.head;
    return el("th", { scope: "col", class: column.cls, "aria-sort": sort, "aria-label": column.label }, content);
  }

  sort(column) {
    const same = this.sorted.key === column.key;
    this.sorted = { key: column.key, down: same ? !this.sorted.down : Boolean(column.high) };
    this.draw();
    byId("ranking").querySelector(`button[data-key="${column.key}"]`).focus();
  }
}

const cellOf = (one, { env_id, budget }) => one.cells.find((cell) => cell.env_id === env_id && cell.budget === budget) ?? {};
const matches = (one, words) => {
  const text = [one.title, one.agent, one.slug, one.kind, one.division, one.date, ...one.authors].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
};

// The part of the scale that is drawn: 0 to 100 and whatever lies outside of it.
function span(standings) {
  const ends = standings.flatMap(({ score }) => (score ? [score.low, score.high, score.value] : []));
  return { low: Math.max(-100, Math.floor(Math.min(0, ...ends) / 5) * 5), high: Math.ceil(Math.max(100, ...ends) / 5) * 5 };
}

function row(one, columns) {
  const cells = columns.map((column) => el(column.header ? "th" : "td",
    { class: column.cls, scope: column.header ? "row" : null }, column.draw(one)));
  return el("tr", { class: one.role, "data-slug": one.slug }, cells);
}

// The ranks that an entry may have: from the first to as many further down as there are entries not told apart from it.
function ranks(one) {
  return one.ties.length ? `${one.rank}-${one.rank + one.ties.length}` : String(one.rank);
}

function rankCell(one) {
  if (one.role === "entry") return [ranks(one), one.division === "open" ? el("small", {}, "open") : null];
  return el("span", { class: "tag" }, one.role === "line" ? "line" : "incomplete");
}

function agentCell(one, whole) {
  const facts = [el("code", {}, one.agent), KINDS[one.kind] ?? one.kind];
  const name = one.detailed === false ? el("span", { class: "name" }, one.title)
    : el("a", { class: "name", href: `#agent/${one.slug}` }, one.title);
  return [name, el("small", {}, ...facts.flatMap((fact, index) => (index ? [" · ", fact] : [fact]))),
    one.score ? el("span", { class: "mini" }, bar(one, whole)) : null];
}

function scoreCell(one) {
  if (!one.score) return "";
  return [el("b", {}, number(one.score.value)), el("small", {}, bracket(one.score, 0))];
}

function accuracyCell(cell) {
  if (!cell.accuracy) return "";
  return el("span", { title: `${percent(cell.accuracy)}% ${bracket(cell.accuracy, 0, 100)}` }, percent(cell.accuracy));
}

const across = (value, { low, high }) => `${(100 * (Math.min(high, Math.max(low, value)) - low)) / (high - low)}%`;

function barHead(whole) {
  const mark = (value, text) => el("span", { style: { left: across(value, whole) } }, text);
  return el("span", { class: "scale", "aria-hidden": "true" }, mark(0, "random"), mark(100, "full"));
}

function bar(one, whole) {
  const at = (value) => across(value, whole);
  const track = el("span", { class: "track", "aria-hidden": "true" },
    ...[0, 50, 100].map((value) => el("i", { class: "grid", style: { left: at(value) } })));
  if (!one.score) return track;
  const { value, low, high } = one.score;
  const [from, to] = value < 0 ? [value, 0] : [0, value];
  track.append(
    el("i", { class: "fill", style: { left: at(from), width: `calc(${at(to)} - ${at(from)})` } }),
    el("i", { class: "whisker", style: { left: at(low), width: `calc(${at(high)} - ${at(low)})` } }));
  return track;
}
