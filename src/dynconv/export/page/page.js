// Has the network, which runs beside this page in network.js, classify what cards.js and the camera offer.

import { offerCamera } from "./camera.js";
import { $, offer, TOP } from "./cards.js";

const waiting = new Map();
const worker = new Worker("network.js", { type: "module" });
let model = null;

worker.addEventListener("message", ({ data: { id, error, ...found } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(found);
});
worker.addEventListener("error", () => {
  for (const { reject } of waiting.values()) reject(new Error("this browser cannot run it; browsers of 2023 and later can"));
});

function reply(id) {
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

let asked = 0;
async function predict(picture) {
  const answered = reply(++asked);
  worker.postMessage({ id: asked, picture }, picture instanceof ImageBitmap ? [picture] : []);
  const { probabilities, routing, milliseconds } = await answered;
  const top = model.classes.map((name, index) => ({ class: name, probability: probabilities[index] }));
  top.sort((one, other) => other.probability - one.probability);
  return { top: top.slice(0, TOP), routing, milliseconds };
}

async function start() {
  $("disk").remove();
  try {
    model = (await reply(0)).about;
  } catch (error) {
    Object.assign($("loading"), { className: "wrong", textContent: `The network could not be loaded: ${error.message}` });
    return;
  }
  $("loading").remove();
  offer(model, predict);
  offerCamera(model.frame.fit, predict);
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
    $("offline").textContent = "The page works without a network connection from now on.";
  } catch {
    // Without https, browsers offer no such thing; the page works nevertheless.
  }
}
start();
