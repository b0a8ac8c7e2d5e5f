"use strict";
// Before the page is drawn, so that it does not flash.
(() => {
  let wanted = null;
  try { wanted = localStorage.getItem("kv-gym-theme"); } catch { /* no storage for this page */ }
  const dark = wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
