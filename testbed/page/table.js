// Tables: sorting by every column, filters, the marked method, and pictures that load when they are shown.
"use strict";

const compare = new Intl.Collator("en", { numeric: true }).compare;

function value(row, column) {
  const cell = row.cells[column];
  const known = cell.dataset.v;
  return known === undefined ? (cell.dataset.t ?? cell.textContent) : known === "" ? null : Number(known);
}

function inOrder(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // what is unknown comes last, whichever way
  return typeof a === "number" ? a - b : compare(a, b);
}

function sort(head) {
  const table = head.closest("table");
  const downward = head.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) if (other.ariaSort) other.ariaSort = "none";
  head.ariaSort = downward ? "descending" : "ascending";
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [value(row, head.cellIndex), row]);
  const known = keyed.filter(([key]) => key !== null).sort(([a], [b]) => (downward ? inOrder(b, a) : inOrder(a, b)));
  const unknown = keyed.filter(([key]) => key === null);
  body.append(...[...known, ...unknown].map(([, row]) => row));
}

function filter(form) {
  const rows = document.getElementById(form.dataset.table).tBodies[0].rows;
  const words = form.querySelector(".search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Array.from(form.querySelectorAll("select")).filter((select) => select.value !== "*");
  const strongOnly = form.querySelector(".hide-weak").checked;
  let shown = 0;
  for (const row of rows) {
    row.text ??= row.textContent.toLowerCase();
    const wanted =
      words.every((word) => row.text.includes(word)) &&
      chosen.every((select) => row.dataset[select.dataset.axis] === select.value) &&
      !(strongOnly && row.dataset.weak !== undefined);
    row.hidden = !wanted;
    shown += wanted;
  }
  form.querySelector("output").textContent = `${shown} of ${rows.length} cells`;
}

function mark(select) {
  const board = select.closest(".board");
  board.dataset.marked = select.value;
  board.querySelector(".chooser output").textContent = select.selectedOptions[0].dataset.told ?? "";
  for (const row of board.querySelectorAll("tr[data-method]")) {
    row.classList.toggle("marked", row.dataset.method === select.value);
  }
  board.dispatchEvent(new CustomEvent("marked"));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
for (const form of document.querySelectorAll(".filters")) {
  form.addEventListener("input", () => filter(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(form); // a browser may have kept what was typed before
}
for (const select of document.querySelectorAll(".mark")) {
  select.addEventListener("change", () => mark(select));
  mark(select);
}
