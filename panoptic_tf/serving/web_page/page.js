/* The page: a photograph in, its overlay and the table of its segments. */

import { paint, resizeMask } from "./panoptic.js";

const LONGEST_SIDE = 1280; // of the overlay: it is painted anew for each segment pointed at
const site = new URL(".", import.meta.url).href;
const element = (id) => document.getElementById(id);
const [drop, file, status, photo, overlay, rows] = [
  "drop", "file", "status", "photo", "overlay", "rows",
].map(element);

let info; // model.json
let worker;
let number = 0; // of the photograph shown
let shown = null; // its result
let isReady = false;

start().catch((error) => say(`The page cannot start: ${error.message}`, true));

async function start() {
  say("Loading the model ...");
  const response = await fetch("model.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`model.json: ${response.status} ${response.statusText}`);
  info = await response.json();
  element("about").textContent =
    `${info.experiment || "A model"} for the ${info.categories.length} categories of ` +
    `${info.dataset}, run by ${info.runtime}.`;
  // A worker of a blob has this page's content security policy; one of a file would have none.
  // Firefox holds the modules that it imports against worker-src, which has 'self' therefore.
  const code = `self.site = ${JSON.stringify(site)}; importScripts(self.site + "worker.js");`;
  worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => {
    worker = null;
    say(`The model cannot be loaded: ${event.message ?? ""}`, true);
  };
}

function receive(answer) {
  if (answer.ready) {
    isReady = true;
    if (number === 0) say("Ready.");
  } else if (answer.error) {
    if (answer.number === undefined || answer.number === number) say(answer.error, true);
  } else if (answer.number === number) {
    show(answer);
  }
}

async function predict(photograph) {
  const mine = ++number;
  clear();
  say(isReady ? "Predicting ..." : "Loading the model ...");
  let bitmap;
  try {
    // EXIF orientation is applied, a colour profile is not: as the package reads photographs.
    bitmap = await createImageBitmap(photograph, { colorSpaceConversion: "none" });
  } catch {
    if (mine === number) say(`${photograph.name} is not an image that this browser reads.`, true);
    return;
  }
  if (mine !== number) return;
  try {
    const { width, height } = bitmap;
    if (width * height > info.max_pixels) {
      throw new Error(`it has ${width} x ${height} pixels, at most ${info.max_pixels} are taken`);
    }
    [photo.width, photo.height] = [width, height];
    const context = photo.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    element("view").hidden = false;
    worker.postMessage({ number: mine, pixels, size: [height, width] }, [pixels.buffer]);
  } catch (error) {
    say(`${photograph.name}: ${error.message}`, true);
  } finally {
    bitmap.close();
  }
}

function clear() {
  shown = null;
  element("view").hidden = true;
  rows.replaceChildren();
  overlay.width = overlay.width; // empties it
}

function show(answer) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(...answer.size));
  const size = answer.size.map((length) => Math.max(1, Math.round(length * scale)));
  const small = resizeMask(answer.ids, answer.size[1], answer.size, size);
  const colors = [null, ...answer.segments.map(colorOf)];
  shown = { ...answer, small, smallSize: size, colors, highlighted: 0 };
  [overlay.height, overlay.width] = size;
  rows.replaceChildren(...answer.segments.map(rowOf));
  draw();
  const count = answer.segments.length;
  say(`${count} ${count === 1 ? "segment" : "segments"} in ${answer.seconds.toFixed(2)} s.`);
  const { ids, segments } = answer;
  const named = segments.map((segment) => ({ ...segment, name: categoryOf(segment).name }));
  document.dispatchEvent(
    new CustomEvent("panoptic-result", { detail: { ids, size: answer.size, segments: named } }),
  );
}

function draw() {
  const { small, smallSize, colors, highlighted } = shown;
  const painted = paint(small, smallSize, colors, highlighted);
  overlay.getContext("2d").putImageData(new ImageData(painted, smallSize[1], smallSize[0]), 0, 0);
}

const categoryOf = (segment) => info.categories[segment.category - 1];

function colorOf(segment) {
  const { colors } = categoryOf(segment);
  return colors[segment.rank % colors.length];
}

function rowOf(segment) {
  const category = categoryOf(segment);
  const row = document.createElement("tr");
  row.tabIndex = 0;
  const [name, kind, score, area, share] = Array.from({ length: 5 }, () => row.insertCell());
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.backgroundColor = `rgb(${colorOf(segment).join(" ")})`;
  name.append(swatch, category.name);
  kind.textContent = category.is_thing ? "thing" : "stuff";
  score.textContent = segment.score === null ? "" : segment.score.toFixed(3);
  area.textContent = segment.area.toLocaleString("en");
  share.textContent = `${((100 * segment.area) / shown.ids.length).toFixed(1)} %`;
  for (const event of ["pointerenter", "focus"]) {
    row.addEventListener(event, () => highlight(segment.id));
  }
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => highlight(0));
  return row;
}

function highlight(id) {
  if (!shown || shown.highlighted === id) return;
  shown.highlighted = id;
  [...rows.rows].forEach((row, i) => row.classList.toggle("highlighted", i + 1 === id));
  draw();
}

function pointAt(event) {
  if (!shown) return;
  const box = overlay.getBoundingClientRect();
  const [height, width] = shown.smallSize;
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  highlight(shown.small[y * width + x] ?? 0);
}

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function takeFirst(files) {
  if (files.length && info && worker) predict(files[0]);
}

file.addEventListener("change", () => {
  takeFirst(file.files);
  file.value = ""; // the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") takeFirst(event.dataTransfer.files);
  });
}
overlay.addEventListener("pointermove", pointAt);
overlay.addEventListener("pointerleave", () => highlight(0));
element("opacity").addEventListener("input", (event) => {
  overlay.style.opacity = event.target.value;
  photo.style.filter = `grayscale(${0.7 * event.target.value})`; // the picture's own, in the end
});
