// The network in a thread of its own, so that the page stays responsive. Is sent { id, picture }, a File or an ImageBitmap;
// answers { id, probabilities, routing, milliseconds } or { id, error }. Its first message has id 0 and model.json's content.

import * as onnxruntime from "./runtime/onnxruntime.js";
import { decoded, framed } from "./image.js";

onnxruntime.env.wasm.numThreads = 1; // more would need headers that few static hosts send
onnxruntime.env.wasm.wasmPaths = { wasm: new URL("runtime/onnxruntime.wasm", location.href).href };
let about = null;
let session = null;
let last = load();

async function load() {
  try {
    about = await (await fetched("model.json")).json();
    const network = await (await fetched("model.onnx")).arrayBuffer();
    session = await onnxruntime.InferenceSession.create(network, { executionProviders: ["wasm"] });
    postMessage({ id: 0, about });
  } catch (error) {
    postMessage({ id: 0, error: error.message });
  }
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: the web server answered ${answer.status}`);
  return answer;
}

// One at a time: a session is not made for several runs at once.
addEventListener("message", ({ data: { id, picture } }) => {
  last = last.then(() => answer(id, picture));
});

async function answer(id, picture) {
  try {
    postMessage({ id, ...(await run(picture)) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
}

async function run(picture) {
  const image = await decoded(picture).catch(() => { throw new Error("This file could not be read as an image."); });
  const { size } = about.frame;
  const pixels = framed(image, about.frame);
  image.close();
  picture.close?.(); // a picture of the camera
  const began = performance.now();
  const outputs = await session.run({ images: new onnxruntime.Tensor("uint8", pixels, [1, size, size, 3]) });
  const routing = about.experts.map((_, block) => [...outputs[`routing_${block + 1}`].data]);
  return { probabilities: [...outputs.probabilities.data], routing, milliseconds: performance.now() - began };
}
