// Refreshes the page in place, and filters long tables. Without this script the browser reloads the page.
"use strict";

const script = document.currentScript;
let seconds = Number(script.dataset.refresh || 0);
const filters = {};
const FILTER_FROM_ROWS = 10;

function applyFilter(table) {
  const words = (filters[table.dataset.filter] || "").toLowerCase().split(/\s+/);
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

function addFilters() {
  for (const table of document.querySelectorAll("table[data-filter]")) {
    const name = table.dataset.filter;
    if (table.tBodies[0].rows.length < FILTER_FROM_ROWS && !filters[name]) continue;
    const label = document.createElement("label");
    label.htmlFor = `filter-${name}`;
    label.textContent = "Show only rows with";
    const input = document.createElement("input");
    input.type = "search";
    input.id = label.htmlFor;
    input.value = filters[name] || "";
    input.addEventListener("input", () => {
      filters[name] = input.value;
      applyFilter(table);
    });
    table.parentElement.before(label, input);
    applyFilter(table);
  }
}

// What the reader is doing outlives the refresh: focus, places in wide tables, selected text.
function replace(fresh) {
  const focused = document.activeElement && document.activeElement.id;
  const range = document.activeElement && [document.activeElement.selectionStart, document.activeElement.selectionEnd];
  const places = [...document.querySelectorAll(".wide")].map((wide) => [wide.id, wide.scrollLeft]);
  const said = document.getElementById("verdict");
  const news = fresh.getElementById("verdict");
  const main = document.getElementById("main");
  const nodes = [...fresh.getElementById("main").children].map((node) => document.adoptNode(node));
  const isSame = said.textContent === news.textContent && said.className === news.className;
  for (const node of [...main.children]) if (!(isSame && node === said)) node.remove();
  main.append(...(isSame ? nodes.filter((node) => node !== news) : nodes));  // screen readers announce only what is new
  document.title = fresh.title;
  document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
  document.querySelector(".when time").replaceWith(document.adoptNode(fresh.querySelector(".when time")));
  const every = fresh.getElementById("every");
  document.getElementById("every").textContent = every.textContent;
  seconds = Number(every.textContent);  // shorter while a server is away
  addFilters();
  for (const [id, left] of places) {
    const wide = document.getElementById(id);
    if (wide) wide.scrollLeft = left;
  }
  const again = focused && document.getElementById(focused);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (again.setSelectionRange && range[0] !== undefined) again.setSelectionRange(...range);
  }
}

async function refresh() {
  const late = document.getElementById("late");
  const isBusy = !document.getSelection().isCollapsed || document.activeElement.matches("main a");
  if (!document.hidden && !isBusy) {
    try {
      const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (!answer.ok) throw new Error(answer.statusText);
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      late.textContent = "";
    } catch {
      if (!late.textContent) late.textContent = "The monitor does not answer: this page is old.";
    }
  }
  setTimeout(refresh, seconds * 1000);
}

addFilters();
if (seconds) setTimeout(refresh, seconds * 1000);
