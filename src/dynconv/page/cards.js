// Offers every way to choose images, and turns each into a card with classes and routing weights. Untrusted text is always
// inserted as text, never as markup.

import { drawRouting, element } from "./routing.js";

const MOST_CARDS = 50;
export const TOP = 5;
export const $ = (id) => document.getElementById(id);
export const percent = (value) => `${(100 * value).toFixed(1)} %`;
let model = null;
let predict = null;

// about: what GET /v1/model of the server returns; classify: File -> { top: [{ class, probability }], routing: [blocks][K] }.
export function offer(about, classify) {
  [model, predict] = [about, classify];
  $("drop").hidden = false;
  const shown = model.classes.slice(0, 20).join(", ");
  const more = model.classes.length > 20 ? ` and ${model.classes.length - 20} more` : "";
  $("model").textContent = `${model.name}, trained on ${model.data}, knows ${model.classes.length} classes: ${shown}${more}. ` +
    `Each of its ${model.blocks} blocks mixes ${[...new Set(model.experts)].join(" or ")} experts per image.`;
  $("samples").hidden = model.samples.length === 0;
  $("samples").querySelector("ul").replaceChildren(...model.samples.map(sampleButton));
}

function image(src) {
  const made = element("img", { src, alt: "" });
  made.addEventListener("load", () => made.classList.toggle("small", made.naturalWidth < 64));
  return made;
}

function sampleButton(name) {
  const picture = image(`samples/${encodeURIComponent(name)}.png`);
  const button = element("button", { type: "button" }, picture, name);
  button.addEventListener("click", async () => classify([new File([await (await fetch(picture.src)).blob()], `drawing: ${name}`, { type: "image/png" })]));
  return element("li", {}, button);
}

function classify(files) {
  if (!model) return;
  $("results").hidden = files.length === 0 && !$("cards").hasChildNodes();
  for (const file of files) {
    const picture = image(URL.createObjectURL(file));
    picture.className = "preview";
    picture.addEventListener("error", () => picture.replaceWith(element("div", { className: "preview" })));
    const heading = element("h2", { textContent: "…" });
    const head = element("div", {}, heading, element("p", { className: "name", textContent: file.name }));
    const card = element("article", { className: "card waiting" }, picture, head);
    $("cards").prepend(card);
    fill(card, heading, file);
  }
  while ($("cards").children.length > MOST_CARDS) remove($("cards").lastChild);
}

async function fill(card, heading, file) {
  try {
    const { top, routing } = await predict(file);
    heading.textContent = top[0].class;
    card.append(classList(top), drawRouting(routing, meansOf(top[0].class), top[0].class));
    $("said").textContent = `${file.name}: ${top[0].class}, ${percent(top[0].probability)}`;
  } catch (error) {
    Object.assign(heading, { className: "wrong", textContent: "Not classified" });
    card.append(element("p", { textContent: error.message }));
    $("said").textContent = `${file.name}: ${error.message}`;
  }
  card.classList.remove("waiting");
}

// The mean routing weights of a class, [blocks][K]; null if unknown.
export function meansOf(label) {
  const means = model.class_routing.map((block) => block[model.classes.indexOf(label)]);
  return means.length > 0 && means.flat().every((value) => value !== null) ? means : null;
}

export function classList(top) {
  return element("ol", { className: "classes" }, ...top.map(({ class: label, probability }) => {
    const bar = element("div");
    bar.style.width = percent(probability).replace(" ", "");
    return element("li", {}, element("span", { textContent: label }), element("div", { className: "track", ariaHidden: "true" }, bar),
      element("span", { textContent: percent(probability) }));
  }));
}

function remove(card) {
  URL.revokeObjectURL(card.querySelector("img")?.src);
  card.remove();
}

for (const input of [$("choose"), $("photograph")]) {
  input.previousElementSibling.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    classify([...input.files]);
    input.value = ""; // lets the user choose the same file again
  });
}
$("clear").addEventListener("click", () => {
  [...$("cards").children].forEach(remove);
  $("results").hidden = true;
  $("choose").previousElementSibling.focus();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // otherwise the browser leaves the page to show the file
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") classify([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => classify([...event.clipboardData.files]));
