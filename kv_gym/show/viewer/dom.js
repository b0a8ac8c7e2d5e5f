// Small helpers. Text from recordings only ever goes through `textContent`.

/** Make an element: tag, attributes (`class`, `text`, others as they are), children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const byId = (id) => document.getElementById(id);

/** What the page shows: `episodes`, and the `measures` that their steps have (name, title, unit). */
const PAGE = JSON.parse(byId("data").textContent);

/** A number for people: three significant digits. */
function short(value) {
  if (value === 0) return "0";
  if (Math.abs(value) < 0.001) return value.toExponential(0);
  return String(Number(value.toPrecision(3)));
}

const percent = (share) => `${Math.round(100 * share)}%`;

/** Value of a CSS variable of the page, for canvases. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Fit a canvas to its place on screen and return its context in CSS pixels, cleared. */
function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const pixels = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== pixels[0]) canvas.width = pixels[0];
  if (canvas.height !== pixels[1]) canvas.height = pixels[1];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** One Tab stop for a group of elements: `step(element, key)` says which element an arrow key leads to. */
function roving(container, selector, step) {
  container.addEventListener("keydown", (event) => {
    const from = event.target.closest(selector);
    const to = from && step(from, event.key);
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    container.querySelectorAll(`${selector}[tabindex="0"]`).forEach((old) => old.setAttribute("tabindex", "-1"));
    to.setAttribute("tabindex", "0");
    to.focus();
  });
}
