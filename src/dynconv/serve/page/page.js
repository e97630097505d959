// Turns images into cards with classes and routing weights. Untrusted text is always inserted as text, never as markup.

import { drawRouting, element } from "./routing.js";

const TOP = 5;
const MOST_CARDS = 50;
const TRIES = 5;
const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const $ = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(1)} %`;
let key = "";
let model = null;

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  const error = new Error(said.error ?? `the server answered ${answer.status}`);
  throw Object.assign(error, { status: answer.status, wait: Number(answer.headers.get("Retry-After")) });
}

async function start() {
  try {
    model = await ask("v1/model");
  } catch (error) {
    if (error.status === 401) askForKey();
    else $("model").textContent = error.message;
    return;
  }
  $("key").hidden = true;
  $("drop").hidden = false;
  const shown = model.classes.slice(0, 20).join(", ");
  const more = model.classes.length > 20 ? ` and ${model.classes.length - 20} more` : "";
  $("model").textContent = `${model.name}, trained on ${model.data}, knows ${model.classes.length} classes: ${shown}${more}. ` +
    `Each of its ${model.blocks} blocks mixes ${[...new Set(model.experts)].join(" or ")} experts per image.`;
  $("samples").hidden = model.samples.length === 0;
  $("samples").querySelector("ul").replaceChildren(...model.samples.map(sampleButton));
}

// Comes before anything else: without the key, nothing can be classified.
function askForKey() {
  $("key").hidden = false;
  $("key-wrong").textContent = key ? "This key is wrong. Ask whoever runs the server." : "";
  $("key-text").select();
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
    const [found] = (await send(await fitting(file))).images;
    heading.textContent = found.class;
    const label = model.classes.indexOf(found.class);
    const means = model.class_routing.map((block) => block[label]);
    const known = means.length > 0 && means.flat().every((value) => value !== null);
    card.append(classList(found.top), drawRouting(found.routing, known ? means : null, found.class));
    $("said").textContent = `${file.name}: ${found.class}, ${percent(found.probability)}`;
  } catch (error) {
    Object.assign(heading, { className: "wrong", textContent: "Not classified" });
    card.append(element("p", { textContent: error.message }));
    $("said").textContent = `${file.name}: ${error.message}`;
  }
  card.classList.remove("waiting");
}

async function send(body, tries = TRIES) {
  try {
    return await ask(`v1/predict?routing=true&top=${TOP}`, { method: "POST", body, headers: { "Content-Type": body.type } });
  } catch (error) {
    if (![429, 503].includes(error.status) || tries === 1) throw error;
    await new Promise((resume) => setTimeout(resume, 1000 * (error.wait || 1)));
    return send(body, tries - 1);
  }
}

// Returns the file itself if the server accepts it. Otherwise the browser, which may read more formats, redraws it smaller.
async function fitting(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return READ_BY_SERVER.includes(file.type) ? file : Promise.reject(new Error("This file could not be read as an image."));
  const { width, height } = bitmap;
  if (READ_BY_SERVER.includes(file.type) && file.size <= model.limits.body && width * height <= model.limits.pixels) return file;
  const scale = Math.min(1, 1600 / Math.max(width, height));
  const canvas = element("canvas", { width: Math.max(1, width * scale), height: Math.max(1, height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((made) => canvas.toBlob(made, "image/png"));
}

function classList(top) {
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
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key-text").value.trim();
  start();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // otherwise the browser leaves the page to show the file
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") classify([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => classify([...event.clipboardData.files]));
start();
