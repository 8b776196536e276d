// Sorting by a click on a column's head, filtering by selection, searching. Every page is complete without it.
"use strict";
const said = document.getElementById("said");
const value = (row, column, numeric) => {
  const cell = row.cells[column], raw = cell.dataset.v ?? cell.textContent.trim();
  if (!numeric) return raw.toLowerCase();
  const number = parseFloat(raw.replace("\u2212", "-")); // what a cell begins with is what it is sorted by
  return isNaN(number) ? null : number;
};
const members = (rows) => [...rows].filter((row) => !row.classList.contains("group")); // what a group's head stands over
for (const head of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button"), name = head.textContent.trim().replace(/\s+/g, " ");
  button.type = "button";
  if (head.querySelector("a")) button.setAttribute("aria-label", `Sort by ${name}`);
  else button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const numeric = head.dataset.sort === "number", was = head.getAttribute("aria-sort");
    const down = was ? was === "ascending" : numeric, sign = down ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of head.closest("table").tBodies) {
      const rows = members(body.rows).map((row) => [value(row, head.cellIndex, numeric), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || sign * (a < b ? -1 : a > b ? 1 : 0));
      body.append(...rows.map(([, row]) => row));
    }
    said.textContent = `Sorted by ${name}, ${down ? "descending" : "ascending"}.`;
  });
}
const show = (rows, wanted) => {
  let count = 0;
  for (const row of rows) count += !(row.hidden = !wanted(row));
  said.textContent = `${count} of ${rows.length} rows shown.`;
};
for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;
for (const select of document.querySelectorAll("[data-filter]"))
  select.addEventListener("change", () => {
    const table = document.getElementById(select.dataset.filter);
    const filters = [...document.querySelectorAll(`[data-filter="${table.id}"]`)].filter((other) => other.value);
    show(members(table.querySelectorAll("tbody tr")), (row) => filters.every((f) => row.dataset[f.dataset.field] === f.value));
    for (const head of table.querySelectorAll("tr.group")) head.hidden = members(head.parentNode.rows).every((row) => row.hidden);
  });
for (const search of document.querySelectorAll("[data-search]"))
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    show(document.querySelectorAll(".searchable tbody tr"), (row) => words.every((w) => row.textContent.toLowerCase().includes(w)));
  });
