// Classifies what the camera sees, one picture after the other, until it is stopped.

import { $, classList, meansOf, percent } from "./cards.js";
import { drawRouting } from "./routing.js";

const LEAST = 100; // milliseconds from one picture to the next
const SILENCE = 3000; // milliseconds between two announcements to a screen reader
const FITS = { crop: "cover", pad: "contain", stretch: "fill" };
const video = $("camera").querySelector("video");
const card = $("camera").querySelector(".card");
const [heading, line] = card.querySelectorAll("h2, .name");
let classes = null;
let routing = null;
let said = { label: "", at: -SILENCE };

// fit: how the network frames pictures; predict: ImageBitmap -> { top, routing, milliseconds }.
export function offerCamera(fit, predict) {
  video.style.objectFit = FITS[fit];
  // Browsers hide cameras from pages that came neither by https nor from this machine.
  $("look").hidden = !navigator.mediaDevices?.getUserMedia;
  $("look").addEventListener("click", () => start(predict));
  $("stop").addEventListener("click", stop);
}

async function start(predict) {
  $("no-camera").hidden = true;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 640 } } });
  } catch (error) {
    $("no-camera").textContent = error.name === "NotAllowedError"
      ? "The browser does not let this page use the camera: allow it in the settings of the site." : `No camera can be used: ${error.message}.`;
    $("no-camera").hidden = false;
    return;
  }
  video.srcObject.getTracks()[0].addEventListener("ended", stop);
  said = { label: "", at: -SILENCE };
  [$("camera").hidden, $("look").hidden] = [false, true];
  $("stop").focus();
  await video.play();
  watch(video.srcObject, predict);
}

async function watch(stream, predict) {
  while (video.srcObject === stream) {
    const pause = new Promise((resume) => setTimeout(resume, LEAST));
    try {
      const found = await predict(await createImageBitmap(video));
      if (video.srcObject === stream) show(found);
    } catch (error) {
      line.textContent = error.message;
    }
    await pause;
    await new Promise(requestAnimationFrame); // waits while nobody sees the page
  }
}

function show({ top, routing: weights, milliseconds }) {
  const [{ class: label, probability }] = top;
  heading.textContent = label;
  line.textContent = `${milliseconds.toFixed(0)} ms`;
  const list = classList(top);
  if (classes) classes.replaceWith(list);
  else card.append(list);
  classes = list;
  if (routing) routing.redraw(weights, meansOf(label), label);
  else card.append((routing = drawRouting(weights, meansOf(label), label)));
  if (label === said.label || performance.now() - said.at < SILENCE) return;
  said = { label, at: performance.now() };
  $("said").textContent = `camera: ${label}, ${percent(probability)}`;
}

function stop() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  [$("camera").hidden, $("look").hidden] = [true, false];
  $("look").focus();
}
