// The page of one submission: its cells, what it was compared with, where it comes from, how to repeat it.

function agentPage(data, slug) {
  const one = data.board.standings.find((other) => other.slug === slug), about = data.details[slug];
  if (!one || !about) {
    return [el("h1", { tabindex: "-1" }, "No such submission"), el("p", {}, el("a", { href: "#" }, "Back to the board"))];
  }
  return [
    el("nav", { "aria-label": "Breadcrumb", class: "crumbs" }, el("a", { href: "#" }, "← All submissions")),
    agentHead(one, about),
    one.missing.length ? el("div", { class: "note" }, el("b", {}, "Not ranked."),
      el("ul", {}, ...one.missing.map((text) => el("li", {}, text)))) : null,
    one.score ? figures(data, one) : null,
    el("section", { "aria-labelledby": "cells-title" }, el("h2", { id: "cells-title" }, "Cells"), cellTable(data, one)),
    familySection(one),
    el("section", { "aria-labelledby": "again-title" }, el("h2", { id: "again-title" }, "Repeat it and check it"),
      command("Repeat", about.command), command("Check", about.check)),
    el("section", { "aria-labelledby": "from-title" }, el("h2", { id: "from-title" }, "Where it comes from"),
      facts(about.provenance)),
  ];
}

function agentHead(one, about) {
  const role = { entry: `rank ${ranks(one)}, ${one.division} division`, line: "reference line, unranked", incomplete: "incomplete, unranked" };
  const link = one.link ? outside(one.link) : null;
  return el("header", { class: "agent-head" },
    el("h1", { tabindex: "-1" }, one.title),
    el("p", {}, el("code", {}, one.agent), ` · ${KINDS[one.kind] ?? one.kind} · ${role[one.role]}`),
    el("p", { class: "fine" }, [one.authors.join(", "), one.date].filter(Boolean).join(" · "), link ? " · " : null, link),
    about.trained ? el("p", {}, `Trained: ${about.trained}`) : null);
}

function figures(data, one) {
  const title = (slug) => data.board.standings.find((other) => other.slug === slug)?.title ?? slug;
  const card = (name, value, small) => el("div", { class: "card" }, el("dt", {}, name), el("dd", {}, el("b", {}, value), small ? el("small", {}, small) : null));
  const cards = [card("Score", number(one.score.value), `95% interval ${range(one.score, 1)}`)];
  if (one.role === "entry") cards.push(card("Rank", ranks(one), `${one.division} division`));
  if (one.better_than_next) {
    const gap = one.better_than_next;
    cards.push(card("Ahead of the next", number(gap.value), `${title(one.next)}; paired, ${range(gap, 1)}`));
  }
  const ties = one.role !== "entry" ? null : one.ties.length
    ? el("p", { class: "fine" }, "Not told apart from: ", ...one.ties.flatMap((slug, index) => [index ? ", " : null, el("a", { href: `#agent/${slug}` }, title(slug))]), ".")
    : el("p", { class: "fine" }, "Told apart from every other entry of its division.");
  return el("section", { "aria-label": "Score" }, el("dl", { class: "cards" }, cards), ties);
}

function cellTable(data, one) {
  const several = new Set(one.cells.map(({ env_id }) => env_id)).size > 1;
  const heads = ["Budget", "Accuracy, %", "Full cache, %", "Random, %", "Score", "Episodes", "Tokens", "Slots mean", "Slots peak", "Time in agent"];
  const cells = one.cells.map((cell) => {
    const fact = data.board.cells.find(({ env_id, budget }) => env_id === cell.env_id && budget === cell.budget);
    const failed = cell.n_failed ? `, ${cell.n_failed} failed` : "";
    const values = [
      cell.accuracy ? [el("b", {}, number(100 * cell.accuracy.value)), " ", el("small", {}, bracket(cell.accuracy, 0, 100))] : "none",
      number(100 * fact.full), number(100 * fact.random),
      cell.score ? [el("b", {}, number(cell.score.value)), " ", el("small", {}, bracket(cell.score, 0))] : "",
      `${cell.n_episodes}${failed}`, optional(cell.mean_tokens, 0), optional(cell.kv_slots_mean, 1), optional(cell.kv_slots_peak, 0),
      cell.scoring_share === null ? "" : `${number(100 * cell.scoring_share, 0)}%`];
    return el("tr", {}, el("th", { scope: "row" }, several ? `${cell.env_id}, ` : null, cell.budget), ...values.map((value) => el("td", { class: "num" }, value)));
  });
  return el("div", { class: "scroll", role: "region", "aria-labelledby": "cells-caption", tabindex: "0" },
    el("table", { class: "plain" }, el("caption", { id: "cells-caption" }, "With 95% intervals over problems. Slots are live slots per layer and KV head."),
      el("thead", {}, el("tr", {}, ...heads.map((head, index) => el("th", { scope: "col", class: index ? "num" : null }, head)))),
      el("tbody", {}, cells)));
}

const optional = (value, digits) => (value === null ? "" : number(value, digits));

function familySection(one) {
  const families = [...new Set(one.cells.flatMap(({ families }) => Object.keys(families)))].sort();
  if (families.length < 2) return null;
  const several = new Set(one.cells.map(({ env_id }) => env_id)).size > 1;
  const rows = one.cells.map((cell) => el("tr", {}, el("th", { scope: "row" }, several ? `${cell.env_id}, ` : null, cell.budget),
    ...families.map((family) => {
      const accuracy = cell.families[family];
      return el("td", { class: "num" }, accuracy ? [el("b", {}, percent(accuracy)), " ", el("small", {}, bracket(accuracy, 0, 100))] : "");
    })));
  return el("section", { "aria-labelledby": "family-title" }, el("h2", { id: "family-title" }, "Families of problems"),
    el("div", { class: "scroll", role: "region", "aria-labelledby": "family-title", tabindex: "0" },
      el("table", { class: "plain" }, el("caption", {}, "Accuracy, % with its 95% interval"),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Budget"), ...families.map((family) => el("th", { scope: "col", class: "num" }, family)))),
        el("tbody", {}, rows))));
}

function command(name, text) {
  if (!text) return null;
  const said = el("span", { role: "status", class: "fine" });
  const copy = async () => {
    try { await navigator.clipboard.writeText(text); said.textContent = "Copied."; } catch { said.textContent = "Select it and copy."; }
  };
  return el("div", { class: "command" }, el("h3", {}, name), el("pre", { tabindex: "0", "aria-label": `${name}: command` }, el("code", {}, text)),
    el("div", {}, el("button", { type: "button", class: "quiet", "aria-label": `Copy the command: ${name}`, on: { click: copy } }, "Copy"), " ", said));
}

function facts(groups) {
  return el("div", { class: "facts-of" }, ...groups.map(({ title, rows }) => el("div", {}, el("h3", {}, title),
    el("dl", {}, ...rows.map(([name, value, code]) => el("div", {}, el("dt", {}, name), el("dd", {}, code ? el("code", {}, value) : value)))))));
}
