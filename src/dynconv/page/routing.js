// Draws the routing weights of an image, block by block, next to the mean of its class.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 120, TOP = 8, LEFT = 26, BAR = 14, GAP = 18;
const COLOURS = 8;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// means: [blocks][K] of the class, or null if unknown; then a uniform mixture is drawn. To show another image in the same
// place, call its redraw() with other arguments: what the reader has scrolled to or unfolded stays so.
export function drawRouting(weights, means, label) {
  const [wide, list, table] = [scrolled("chart"), element("ul", { className: "key" }), scrolled("numbers")];
  const part = element("section", { className: "routing" }, element("h3", { textContent: "Routing weights: how each block mixed its experts" }),
    wide, list, element("details", {}, element("summary", { textContent: "As numbers" }), table));
  part.redraw = (weights, means, label) => {
    const marks = means ?? weights.map((block) => block.map(() => 1 / block.length));
    const meaning = means ? `mean of the class ${label}` : "a uniform mixture, 1/K: the class means are not known here";
    wide.replaceChildren(chart(weights, marks, meaning));
    list.replaceChildren(...key(most(weights), meaning));
    table.replaceChildren(numbers(weights, marks, meaning));
  };
  part.redraw(weights, means, label);
  return part;
}

// Can be scrolled by keyboard, too, where it is too wide for the screen.
function scrolled(label) {
  return element("div", { className: "wide", tabIndex: 0, role: "group", ariaLabel: `Routing weights, ${label}` });
}

// Blocks may differ in their number of experts.
function most(weights) {
  return Math.max(...weights.map((block) => block.length));
}

function chart(weights, marks, meaning) {
  const experts = most(weights);
  const highest = Math.max(1, ...weights.flat(), ...marks.flat());
  const group = experts * BAR + GAP;
  const width = LEFT + weights.length * group;
  const y = (value) => TOP + HEIGHT * (1 - value / highest);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${TOP + HEIGHT + 20}`, role: "img" });
  svg.setAttribute("aria-label", `Routing weights of ${weights.length} blocks with ${experts} experts; lines: ${meaning}`);
  // Keeps the chart close to its natural size, so that the text stays legible; a chart wider than the card scrolls.
  svg.style.minWidth = `${0.85 * width}px`;
  svg.style.maxWidth = `${1.25 * width}px`;
  for (const value of [0, 0.5, 1]) {
    svg.append(shape("line", { x1: LEFT, x2: width, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(shape("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  weights.forEach((block, number) => {
    const start = LEFT + number * group + GAP / 2;
    block.forEach((value, k) => {
      const x = start + k * BAR;
      svg.append(shape("rect", { x: x + 1, y: y(value), width: BAR - 2, height: HEIGHT + TOP - y(value), class: `expert-${k % COLOURS}` }));
      svg.append(shape("line", { x1: x - 1, x2: x + BAR + 1, y1: y(marks[number][k]), y2: y(marks[number][k]), class: "mean" }));
    });
    svg.append(shape("text", { x: start + (experts * BAR) / 2, y: TOP + HEIGHT + 15, "text-anchor": "middle" }, `block ${number + 1}`));
  });
  return svg;
}

function key(experts, meaning) {
  const items = [];
  for (let k = 0; k < experts; k++) {
    const swatch = shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    swatch.append(shape("rect", { width: 10, height: 10, class: `expert-${k % COLOURS}` }));
    items.push(element("li", {}, swatch, `expert ${k + 1}`));
  }
  const stroke = shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
  stroke.append(shape("line", { x1: 0, x2: 10, y1: 5, y2: 5, class: "mean" }));
  return [...items, element("li", {}, stroke, meaning)];
}

function numbers(weights, marks, meaning) {
  const cell = (text) => element("td", { textContent: text });
  const heads = ["block", "this image", meaning].map((textContent) => element("th", { textContent, scope: "col" }));
  const rows = weights.map((block, number) =>
    element("tr", {}, element("th", { textContent: number + 1, scope: "row" }),
      ...[block, marks[number]].map((values) => cell(values.map((value) => value.toFixed(3)).join("  ")))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}
