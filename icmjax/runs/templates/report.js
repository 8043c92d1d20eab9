"use strict";
// Sorts, filters and searches the table of labels. Without it the table is a plain one.
(() => {
  const table = document.getElementById("label-table");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const controls = document.getElementById("controls");
  const [search, byLabel, byKind, byPersona, count] =
    ["search", "by-label", "by-kind", "by-persona", "count"].map((id) => document.getElementById(id));
  // Of numbers any digit would be found in many rows.
  const textOf = (row) => [...row.querySelectorAll(".claim, .persona")].map((cell) => cell.textContent);
  const texts = new Map([...body.rows].map((row) => [row, textOf(row).join(" ").toLowerCase()]));

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let numShown = 0;
    for (const row of body.rows) {
      const isShown = words.every((word) => texts.get(row).includes(word))
        && (!byLabel.value || row.dataset.label === byLabel.value)
        && (!byKind.value || row.dataset.kind.split(" ").includes(byKind.value))
        && (!byPersona || !byPersona.value || row.dataset.persona === byPersona.value);
      row.hidden = !isShown;
      numShown += isShown;
    }
    count.textContent = `${numShown} of ${body.rows.length} claims`;
  }

  function valueOf(row, column, isNumber) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (!isNumber) return text;
    return Number(text.replace("inf", "Infinity"));
  }

  function sort(column) {
    const header = headers[column];
    const isNumber = header.dataset.sort === "number";
    // Numbers fall at first, so that the largest ones are seen; a second press turns the order round.
    const first = isNumber && column > 0 ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [valueOf(row, column, isNumber), row]);
    rows.sort(([a], [b]) => sign * (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true })) || 0);
    body.append(...rows.map(([, row]) => row));
  }

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(column));
    header.append(button);
  });
  for (const control of [search, byLabel, byKind, byPersona]) control?.addEventListener("input", filter);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  filter();
  // Paper cannot be unfolded.
  const folded = [...document.querySelectorAll("details:not([open])")];
  window.addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
  window.addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
})();
