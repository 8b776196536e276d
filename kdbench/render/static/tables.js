// Sorting by a click on a column's head, filters, hidden columns; all of it in the address, so that it survives a
// reload and can be sent to others. Every page is complete without it.
"use strict";
const said = document.getElementById("said");
const tables = [...document.querySelectorAll("table:not(.facts)")];
// What differs from the page as it came: "s0" the sort of the first table, "h0" its hidden columns, "f-id" a filter,
// "a0" all its rows on a phone. The address has it after a ~, behind the place on the page that a link led to, if any.
const parts = () => {
  const [, place, ...kept] = /^#?([^~]*)~?(.*)$/.exec(location.hash);
  return [place, ...kept];
};
let [place, kept] = parts();
const state = new URLSearchParams(kept);
const write = () => {
  const text = state.toString();
  history.replaceState(null, "", text || place ? `#${place}${text && `~${text}`}` : location.pathname + location.search);
};
const remember = (name, value) => {
  if (value) state.set(name, value);
  else state.delete(name);
  write();
};
const value = (row, column, numeric) => {
  const cell = row.cells[column], raw = cell?.dataset.v ?? cell?.textContent.trim() ?? "";
  if (!numeric) return raw.toLowerCase();
  const number = parseFloat(raw.replace("\u2212", "-")); // what a cell begins with is what it is sorted by
  return isNaN(number) ? null : number;
};
const members = (rows) => [...rows].filter((row) => !row.classList.contains("group")); // what a group's head stands over
const sort = (head, down) => {
  const numeric = head.dataset.sort === "number", sign = down ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  // A row that lacks pairs has a mean over others, and stays below those that lack none.
  for (const body of head.closest("table").tBodies) {
    const rows = members(body.rows).map((row) => [row.dataset.part !== undefined, value(row, head.cellIndex, numeric), row]);
    rows.sort(([p, a], [q, b]) => p - q || (a === null) - (b === null) || sign * (a < b ? -1 : a > b ? 1 : 0));
    body.append(...rows.map(([, , row]) => row));
  }
  shorten();
};
// Of a long table a phone shows the first rows until it is asked for all; a screen has a scroller for that.
const FIRST = 20, long = new Map();
const shorten = () => {
  for (const [table, button] of long) {
    const shown = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.hidden);
    shown.forEach((row, place) => row.classList.toggle("later", place >= FIRST && !button.hidden));
    button.textContent = `Show all ${shown.length} rows`;
    button.parentNode.hidden = button.hidden || shown.length <= FIRST;
  }
};
const called = new Set(); // what buttons are called: those of two tables must not be called alike
tables.forEach((table, number) => {
  if (table.rows.length > 1.5 * FIRST && !table.classList.contains("matrix")) {
    const more = document.createElement("p"), button = document.createElement("button");
    more.className = "more";
    more.append(button);
    button.type = "button";
    button.hidden = state.has(`a${number}`);
    button.addEventListener("click", () => {
      button.hidden = true;
      remember(`a${number}`, "1");
      shorten();
    });
    table.after(more);
    long.set(table, button);
  }
  const region = table.closest(".scroll"), of = region?.getAttribute("aria-label") ?? document.getElementById(region?.getAttribute("aria-labelledby"))?.textContent.trim() ?? "";
  const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
  for (const head of heads.filter((each) => each.dataset.sort)) {
    const button = document.createElement("button"), name = head.textContent.trim().replace(/\s+/g, " ");
    button.type = "button";
    if (head.querySelector("a")) button.setAttribute("aria-label", `Sort by ${name}`);
    else button.append(...head.childNodes);
    if (called.has(button.ariaLabel ?? name)) button.setAttribute("aria-label", `${button.ariaLabel ?? name}, ${of}`);
    called.add(button.ariaLabel ?? name);
    head.append(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort"), down = was ? was === "ascending" : head.dataset.sort === "number";
      sort(head, down);
      remember(`s${number}`, `${head.cellIndex}${down ? "d" : "a"}`);
      said.textContent = `Sorted by ${name}, ${down ? "descending" : "ascending"}.`;
    });
  }
  const asked = /^([0-9]{1,3})([da])$/.exec(state.get(`s${number}`) ?? "");
  if (asked && heads[asked[1]]?.dataset.sort) sort(heads[asked[1]], asked[2] === "d");
  if (heads.length > 7 && !table.classList.contains("matrix")) columns(table, heads, number);
});
function columns(table, heads, number) {
  const details = document.createElement("details"), summary = document.createElement("summary"), group = document.createElement("div");
  const hidden = new Set((state.get(`h${number}`) ?? "").split(".").filter(Boolean).map(Number));
  const show = (column, shown) => {
    for (const row of table.rows) if (row.cells[column]) row.cells[column].hidden = !shown;
  };
  details.className = "columns-shown";
  summary.textContent = "Columns";
  heads.forEach((head, column) => {
    if (!column) return; // the row's name stays
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(column);
    label.append(box, ` ${head.textContent.trim().replace(/\s+/g, " ")}`);
    group.append(label);
    if (!box.checked) show(column, false);
    box.addEventListener("change", () => {
      show(column, box.checked);
      hidden[box.checked ? "delete" : "add"](column);
      remember(`h${number}`, [...hidden].sort((a, b) => a - b).join("."));
    });
  });
  details.append(summary, group);
  (table.closest(".scroll") ?? table).before(details);
}
for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;
// Each control says which rows of its table it wants; a row is shown where all of them do.
const wanted = new Map();
// Grades of which one is enough for an answer.
const ENOUGH = new Set(["measured", "re-run"]);
// As stats.evidence has it: the first of the best grade that nothing of that grade is printed ahead of, and after it what
// is not told from it. ``told`` gives of each its grade, its place, the suites it may be best in, and the places of those
// that it is level with and beaten by.
const leading = (left, told) => {
  const all = left.map((each) => [each, ...told(each)]), same = new Set(all.filter(([, grade]) => grade === all[0][1]).map(([, , at]) => at));
  const first = all.find(([, , at, , , beaten]) => same.has(at) && !beaten.some((by) => same.has(by))) ?? all[0];
  if (!first) return [];
  const [, grade, place, best, level] = first;
  return [first, ...all.filter(([, , at, suites]) => at !== place
    && (grade.startsWith("measured") ? suites.some((suite) => best.includes(suite)) : level.includes(at)))].map(([each]) => each);
};
// A list offers what is left by the other controls.
const lists = new Map();
const others = (scope, but) =>
  [...wanted].filter(([element, [of]]) => of === scope && element !== but).map(([, [, wants]]) => wants);
const narrow = (scope) => {
  for (const [list, [of, rows, field]] of lists) {
    if (of !== scope) continue;
    const asked = others(scope, list);
    const left = new Set([...rows()].filter((row) => asked.every((wants) => wants(row))).map((row) => row.dataset[field]));
    for (const option of list.options) option.hidden = option.disabled = option.value && option.value !== list.value && !left.has(option.value);
  }
};
// The notes before and after a table that is filtered: how many rows are left, and what to do where none is.
const counts = new Map();
const filter = (scope, rows) => {
  let count = 0;
  const asked = others(scope);
  for (const row of rows) count += !(row.hidden = !asked.every((wants) => wants(row)));
  for (const head of document.querySelectorAll("tr.group")) head.hidden = members(head.parentNode.rows).every((row) => row.hidden);
  const text = `${count} of ${rows.length} rows fit.`;
  said.textContent = text;
  narrow(scope);
  shorten();
  for (const note of document.querySelectorAll(`[data-left="${scope}"]`)) {
    const [first, ...level] = leading([...rows].filter((row) => !row.hidden), (row) => [row.dataset.grade, ...JSON.parse(row.dataset.told)]), enough = ENOUGH.has(first?.dataset.grade);
    const name = first?.querySelector("a").textContent, helps = first?.dataset.helps !== undefined;
    note.hidden = !asked.length;
    note.textContent = !first ? "Nothing is left."
      : !helps ? `Of what is left none is shown to help; ${name} is the best.`
        : !enough ? `Not enough evidence of what is left; so far ${name}.`
          : `Best supported of what is left: ${name}${level.length ? `, and ${level.length} not told from it` : ""}.`;
    const budget = document.querySelector(`[data-most="${scope}"]`);
    const unknown = wanted.has(budget) ? [...rows].filter((row) => row.dataset.cost === "" && others(scope, budget).every((wants) => wants(row))) : [];
    if (unknown.length) note.append(` Of unknown cost, and so left out: ${unknown[0].querySelector("a").textContent}${unknown.length > 1 ? ` and ${unknown.length - 1} more` : ""}.`);
  }
  const table = rows[0]?.closest(".scroll") ?? rows[0]?.closest("table");
  if (!table) return;
  if (!counts.has(table)) counts.set(table, ["before", "after"].map((side) => {
    const note = document.createElement("p");
    note.className = side === "after" ? "nothing" : "fits quiet";
    table[side](note);
    return note;
  }));
  const [fitting, nothing] = counts.get(table);
  fitting.hidden = !asked.length;
  fitting.textContent = text;
  nothing.hidden = count > 0;
  nothing.textContent = count ? "" : `No row fits. ${loosened(scope, rows)}`;
};
// Of what is asked for, that without which most rows are left.
const loosened = (scope, rows) => {
  const without = (element) => [...rows].filter((row) => others(scope, element).every((wants) => wants(row, element))).length;
  const tried = [...wanted].filter(([, [of]]) => of === scope).map(([element]) => [without(element), element]);
  const [left, element] = tried.reduce((best, next) => (next[0] > best[0] ? next : best), [0]);
  return left ? `Loosen \u201c${element.labels[0].textContent.trim()}\u201d: the rest of what is asked for leaves ${left}.`
    : "Loosen more than one of the limits: none of them alone is in the way.";
};
const control = (element, scope, rows, wants) => {
  const name = `f-${element.id || element.value}`, check = element.type === "checkbox";
  const now = () => (check ? (element.checked ? element.value : "") : element.value.trim());
  const apply = () => {
    const asked = now();
    if (asked) wanted.set(element, [scope, (row, but) => wants(row, asked, but)]);
    else wanted.delete(element);
    filter(scope, rows());
    remember(name, asked && (check ? "1" : asked));
  };
  if (state.has(name)) {
    if (check) element.checked = state.get(name) === "1";
    else element.value = state.get(name);
    if (element.selectedIndex === -1) element.selectedIndex = 0; // what it offered once
    apply();
  }
  element.addEventListener(element.type === "search" || element.type === "number" ? "input" : "change", apply);
};
const rowsOf = (id) => () => members(document.querySelectorAll(`#${id} > tbody > tr`));
for (const each of document.querySelectorAll("[data-filter]")) {
  const { filter: table, field } = each.dataset;
  lists.set(each, [table, rowsOf(table), field]);
  control(each, table, rowsOf(table), (row, asked) => row.dataset[field] === asked);
}
for (const each of document.querySelectorAll("[data-most]"))
  control(each, each.dataset.most, rowsOf(each.dataset.most), (row, asked) => row.dataset.cost !== "" && Number(row.dataset.cost) <= Number(asked));
for (const each of document.querySelectorAll("[data-without]"))
  control(each, each.dataset.without, rowsOf(each.dataset.without), (row, asked) => row.dataset.needs !== "?" && !row.dataset.needs.split(" ").includes(asked));
// On the page of all pairs, what costs too much or needs what is not to be had gives way to the next best.
const limits = [...document.querySelectorAll("[data-limit]")], budget = limits.find((each) => each.type === "number");
const fits = ([, , , , least, needs], but) => limits.every((each) => each === but ||
  (each.type === "checkbox" ? !each.checked || (needs !== null && !needs.includes(each.value))
    : !each.value || (least !== null && least <= Number(each.value))));
for (const each of limits)
  control(each, "pairs", rowsOf("pairs"), (row, _, but) => JSON.parse(row.dataset.options).some((option) => fits(option, but)));
const came = new Map([...document.querySelectorAll("[data-options]")].map((row) =>
  [row, [row.dataset.grade, [2, 3, 4, 6, 7].map((at) => [row.cells[at], row.cells[at].cloneNode(true), row.cells[at].dataset.v])]]));
const named = new Map(limits.filter((each) => each.type === "checkbox").map((each) =>
  [each.value, each.parentNode.textContent.trim().replace(/^without /, "")]));
const asked = new Set(limits.map((each) => `f-${each.id || each.value}`));
const give = () => {
  const limited = limits.some((each) => (each.type === "checkbox" ? each.checked : each.value));
  const grades = new Map([...document.querySelectorAll("#choose-grade option")].map((each) => [each.value, each]));
  for (const [row, [before, cells]] of came) {
    const [found, ...level] = limited ? leading(JSON.parse(row.dataset.options).filter((option) => fits(option)), (each) => [each[3], ...each[6]]) : [];
    // What would come first, if its cost were known to be within the budget.
    const [free] = limited ? leading(JSON.parse(row.dataset.options).filter((option) => fits(option, budget)), (each) => [each[3], ...each[6]]) : [];
    const link = row.cells[0].querySelector("a"); // which takes the limits along
    link.hash = limited ? `~${new URLSearchParams([...state].filter(([name]) => asked.has(name)))}` : "";
    row.dataset.grade = found ? found[3] : before;
    for (const [cell, first, number] of cells) {
      cell.replaceChildren(...first.cloneNode(true).childNodes);
      if (number === undefined) delete cell.dataset.v;
      else cell.dataset.v = number;
    }
    if (!found) continue;
    const enough = ENOUGH.has(found[3]), helps = found[7];
    const [[method], [gain], [evidence], [cost], [needs]] = cells, name = document.createElement("a");
    name.href = found[1].split("/").map(encodeURIComponent).join("/");
    name.textContent = found[0];
    if (!helps) {
      method.textContent = enough ? "none is shown to help" : "not enough evidence";
      [gain, evidence, cost, needs].forEach((each) => { each.textContent = "\u2013"; each.dataset.v = ""; });
      continue;
    }
    method.replaceChildren(...(enough ? [] : ["not enough evidence; so far "]), name);
    if (enough && level.length) method.append(` and ${level.length} not told from it`);
    if (free && free[4] === null) method.append(`; ${free[0]} is of unknown cost`);
    gain.textContent = found[2];
    gain.dataset.v = parseFloat(found[2].replace("\u2212", "-"));
    const grade = grades.get(found[3]), badge = document.createElement("span");
    badge.className = `badge ${grade.dataset.badge}`;
    badge.textContent = grade.textContent;
    evidence.replaceChildren(badge);
    cost.textContent = found[4] === null ? "\u2013" : row.dataset.passes === undefined ? found[4].toFixed(2) : `${found[4].toFixed(1)} passes`;
    cost.dataset.v = found[4] ?? "";
    needs.textContent = found[5] === null ? "unknown" : found[5].map((need) => named.get(need) ?? need).join(", ") || "nothing more";
  }
};
for (const each of limits)
  for (const kind of ["input", "change"]) // a checkbox is remembered at the second
    each.addEventListener(kind, () => {
      give();
      filter("pairs", rowsOf("pairs")()); // by the grades of what is named now
    });
if (limits.length) give();
// One box for all that a method may need.
for (const all of document.querySelectorAll("[data-each]")) {
  const boxes = [...all.closest(".controls").querySelectorAll("[data-limit], [data-without]")].filter((each) => each.type === "checkbox");
  const look = () => { all.checked = boxes.every((each) => each.checked); };
  boxes.forEach((each) => each.addEventListener("change", look));
  all.addEventListener("change", () => {
    const asked = all.checked; // which the boxes' own changes look at anew
    for (const each of boxes.filter((box) => box.checked !== asked)) {
      each.checked = asked;
      each.dispatchEvent(new Event("change"));
    }
  });
  look();
}
// A word that is the whole of a name means that one alone: "kd" is no part of "dkd".
for (const each of document.querySelectorAll("[data-search]")) {
  const rows = () => document.querySelectorAll(".searchable tbody tr");
  const names = (row) => (row.dataset.names ?? "").split(" ");
  const known = new Set([...rows()].flatMap(names));
  control(each, "", rows, (row, asked) => asked.toLowerCase().split(/[\s\u2013]+|,(?![^(]*\))|\bvs\.?\s|\bversus\s|\bagainst\s/).filter(Boolean).every((word) =>
    known.has(word) ? names(row).includes(word) : `${row.textContent} ${row.dataset.words ?? ""}`.toLowerCase().includes(word)));
}
shorten();
if (place && kept) addEventListener("load", () => { // a browser takes both for the name of the place
  location.replace(`#${place}`);
  write();
});
addEventListener("hashchange", () => {
  [place, kept] = parts();
  if (kept && kept !== state.toString()) location.reload(); // typed or pasted, or the way back
  else write(); // a link within the page keeps what is sorted and filtered
});
