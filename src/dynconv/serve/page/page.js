// Has the server classify what cards.js offers, and asks for the server's key if it has one.

import { $, offer, TOP } from "./cards.js";
import { element } from "./routing.js";

const TRIES = 5;
const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
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
  offer(model, async (file) => (await send(await fitting(file))).images[0]);
}

// Comes before anything else: without the key, nothing can be classified.
function askForKey() {
  $("key").hidden = false;
  $("key-wrong").textContent = key ? "This key is wrong. Ask whoever runs the server." : "";
  $("key-text").select();
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

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key-text").value.trim();
  start();
});
start();
