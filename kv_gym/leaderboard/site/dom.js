// Elements, numbers and the theme. Text only ever goes in as text nodes: what submitters wrote is never markup.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const minus = (text) => text.replace("-", "\u2212");
const number = (value, digits = 1) => minus((Object.is(value, -0) ? 0 : value).toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1"));
const range = (interval, digits, scale = 1) =>
  `${number(interval.low * scale, digits)} to ${number(interval.high * scale, digits)}`;
const bracket = (interval, digits, scale = 1) =>
  `[${number(interval.low * scale, digits)}, ${number(interval.high * scale, digits)}]`;
const percent = (interval) => (interval ? number(100 * interval.value, 0) : "");
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// A link of a submitter: only the web, and it learns nothing of where the reader came from.
function outside(address) {
  let url;
  try { url = new URL(address); } catch { return null; }
  if (url.protocol !== "https:" && url.protocol !== "http:") return null;
  return el("a", { href: url.href, rel: "noopener noreferrer nofollow ugc", target: "_blank" }, address);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
}

function startTheme() {
  setTheme(document.documentElement.dataset.theme);
  byId("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(theme);
    try { localStorage.setItem("kv-gym-theme", theme); } catch { /* lasts as long as the page */ }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    let chosen = null;
    try { chosen = localStorage.getItem("kv-gym-theme"); } catch { /* follow the system */ }
    if (!chosen) setTheme(event.matches ? "dark" : "light");
  });
}
