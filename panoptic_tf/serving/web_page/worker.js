/*
 * Runs the model, so that the page stays responsive. A classic script: LiteRT.js loads its own
 * WebAssembly loader with importScripts, which modules lack. `site` is the folder's address.
 */
"use strict";

// Where the WebAssembly lies; its loader reads this.
self.Module = { locateFile: (name) => `${self.site}runtime/${name}` };

const ready = start();
ready.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ error: `The model cannot be loaded: ${error.message ?? error}` }),
);

async function start() {
  const [runtime, panoptic, info, model] = await Promise.all([
    import(`${self.site}runtime/litert.js`),
    import(`${self.site}panoptic.js`),
    read("model.json").then((response) => response.json()),
    read("model.tflite").then((response) => response.arrayBuffer()),
  ]);
  await runtime.loadLiteRt(`${self.site}runtime/`);
  const compiled = await runtime.loadAndCompile(new Uint8Array(model), { accelerator: "wasm" });
  return async (pixels, size) => {
    const { image, imageInfo } = panoptic.fitAndPad(pixels, size, info.input_size);
    const inputs = {
      image: new runtime.Tensor(image, [1, ...info.input_size, 3]),
      image_info: new runtime.Tensor(imageInfo, [1, 4, 2]),
    };
    const tensors = await compiled.run(inputs);
    const outputs = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      const shape = Array.from(tensor.type.layout.dimensions);
      outputs[name] = { data: (await tensor.data()).slice(), shape };
    }
    for (const tensor of [...Object.values(inputs), ...Object.values(tensors)]) tensor.delete();
    return panoptic.toResult(outputs, size);
  };
}

async function read(name) {
  // Asks the server whether a kept copy is still the newest: a model may be exported again.
  const response = await fetch(`${self.site}${name}`, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

onmessage = async ({ data: { number, pixels, size } }) => {
  try {
    const predict = await ready;
    const start = performance.now();
    const { ids, segments } = await predict(pixels, size);
    const seconds = (performance.now() - start) / 1000;
    postMessage({ number, ids, segments, size, seconds }, [ids.buffer]);
  } catch (error) {
    postMessage({ number, error: `The model failed: ${error.message ?? error}` });
  }
};
