// Put it together: the board, or the page that the address names.

const data = JSON.parse(byId("data").textContent);

function startBoard() {
  const { board, protocol } = data;
  const envs = [...new Set(protocol.cells.map(({ env_id }) => env_id))];
  const cells = protocol.cells.flatMap(({ env_id, budgets }) => budgets.map((budget) => ({ env_id, budget })));
  const ranking = new Ranking(board, cells, envs[0]), chart = new Chart(board, cells, envs[0]);
  byId("env").replaceChildren(...envs.map((env) => el("option", {}, env)));
  byId("env-label").hidden = envs.length < 2;
  byId("env").addEventListener("change", () => {
    ranking.env = chart.env = byId("env").value;
    about(protocol, chart.env);
    ranking.draw();
    chart.draw();
  });
  byId("facts").replaceChildren(...introduction(board, protocol).map((fact) => el("li", {}, fact)));
  about(protocol, envs[0]);
  byId("footer").textContent = `Protocol ${protocol.id}` + (board.n_trials ? `. ${plural(board.n_trials, "trial submission")} left out.` : ".");
  ranking.draw();
  chart.draw();
}

function introduction(board, protocol) {
  const entries = board.standings.filter(({ role }) => role === "entry").length;
  const seeds = protocol.seeds > 1 ? ` × ${protocol.seeds} seeds` : "";
  return [plural(entries, "ranked entry", "ranked entries"),
    ...protocol.cells.map((cell) => `${cell.env_id}: ${cell.problems} ${protocol.split} problems${seeds} at ${cell.budgets.join(", ")} slots, model ${cell.model}`)];
}

function about(protocol, env) {
  const cell = protocol.cells.find(({ env_id }) => env_id === env);
  byId("chart-about").textContent = cell ? `${env}, ${cell.problems} ${protocol.split} problems; bands are 95% intervals. Dashed curves are reference lines.` : "";
}

function route() {
  const slug = /^#agent\/([a-z0-9_-]+)$/.exec(location.hash)?.[1];
  const page = byId("agent"), showing = Boolean(slug);
  byId("board").hidden = showing;
  page.hidden = !showing;
  page.replaceChildren(...(showing ? agentPage(data, slug) : []).filter(Boolean));
  const heading = page.querySelector("h1");
  document.title = heading ? `${heading.textContent} · kv-gym leaderboard` : "kv-gym leaderboard";
  return heading;
}

startTheme();
startBoard();
route();
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which page is shown
  byId("main").focus();
});
let above = 0; // where the reader was on the board
addEventListener("hashchange", (event) => {
  const left = new URL(event.oldURL).hash;
  if (!left.startsWith("#agent/")) above = scrollY;
  const heading = route();
  scrollTo({ top: heading ? 0 : above, behavior: "instant" });
  const back = [...document.querySelectorAll("#ranking a.name")].find((link) => link.hash === left);
  (heading ?? back ?? byId("main")).focus({ preventScroll: true });
});
