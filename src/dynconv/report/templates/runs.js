// The table of runs: each header sorts it, and a field above hides the rows without a text. The controls are made here,
// so that without JavaScript there is the whole table and nothing that does not work.

"use strict";

const table = document.querySelector("#runs table");
const body = table.tBodies[0];
const headers = [...table.tHead.rows[0].cells];
const rows = [...body.rows];
const NO_VALUE = ["", "-", "?"];
const collator = new Intl.Collator("en", { numeric: true }); // seed2 before seed10

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A cell's number as it was before it was rounded, or else its text; null if it has none.
function valueOf(cell) {
  const text = cell.dataset.number ?? cell.textContent.trim();
  if (NO_VALUE.includes(text)) return null;
  return "number" in cell.dataset ? Number(text) : text;
}

function sortBy(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const each of headers) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const values = new Map(rows.map((row) => [row, valueOf(row.cells[header.cellIndex])]));
  body.append(...[...rows].sort((one, other) => {
    const [first, second] = [values.get(one), values.get(other)];
    if (first === null || second === null) return (first === null) - (second === null); // last, whichever the direction
    const order = typeof first === "number" ? first - second : collator.compare(first, second);
    return descending ? -order : order;
  }));
}

for (const header of headers) {
  const button = element("button", { type: "button" }, ...header.childNodes);
  button.addEventListener("click", () => sortBy(header));
  header.append(button);
}

// What a reader sees of a row, in one line and in small letters.
const plain = (text) => text.replace(/\s+/g, " ").trim().toLowerCase();
const texts = new Map(rows.map((row) => [row, plain([...row.cells].map((cell) => cell.textContent).join(" "))]));
const field = element("input", { type: "search", autocomplete: "off", spellcheck: false });
const said = element("output", {}); // which a screen reader reads out when it changes

function filter() {
  const wanted = plain(field.value);
  for (const [row, text] of texts) row.hidden = !text.includes(wanted);
  said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} runs shown`;
}

field.addEventListener("input", filter);
filter();
const label = element("label", {}, "Only runs with ", field);
table.parentElement.before(element("div", { className: "filter" }, label, said));
