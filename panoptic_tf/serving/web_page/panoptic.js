/*
 * What `panoptic_tf.Predictor` does around the model: pixels in, segments out. No page and no
 * runtime in here. Sizes are [height, width], arrays lie row by row.
 */

const { fround } = Math;

/** A category and an instance as one number, 0 for void. */
const keyOf = (category, instance) => (category > 0 ? category * 2 ** 31 + instance : 0);

/**
 * Scales an image until it just fits the network's frame, top left, zero outside; the same numbers
 * as `panoptic_tf.inputs.geometry.fit_and_pad`, whose arithmetic is float32.
 *
 * @param {Uint8ClampedArray|Uint8Array} pixels RGBA, height * width * 4; alpha is not read.
 * @param {number[]} size of the image.
 * @param {number[]} networkSize
 * @returns {{image: Float32Array, imageInfo: Float32Array}} RGB 0..255 [H, W, 3]; [4, 2].
 */
export function fitAndPad(pixels, size, networkSize) {
  const scaled = fittingSize(size, networkSize);
  const rows = interpolation(size[0], scaled[0]);
  const columns = interpolation(size[1], scaled[1]);
  const image = new Float32Array(networkSize[0] * networkSize[1] * 3);
  const rowLength = size[1] * 4;
  for (let y = 0; y < scaled[0]; y++) {
    const top = rows.lower[y] * rowLength;
    const bottom = rows.upper[y] * rowLength;
    const down = rows.weight[y];
    let target = y * networkSize[1] * 3;
    for (let x = 0; x < scaled[1]; x++) {
      const left = columns.lower[x] * 4;
      const right = columns.upper[x] * 4;
      const along = columns.weight[x];
      for (let channel = 0; channel < 3; channel++) {
        const above = mix(pixels[top + left + channel], pixels[top + right + channel], along);
        const below = mix(pixels[bottom + left + channel], pixels[bottom + right + channel], along);
        image[target++] = mix(above, below, down);
      }
    }
  }
  const scale = scaled.map((length, axis) => length / size[axis]);
  return { image, imageInfo: Float32Array.from([...size, ...networkSize, ...scale, 0, 0]) };
}

function mix(a, b, weight) {
  return fround(a + fround(fround(b - a) * weight));
}

function fittingSize(size, networkSize) {
  const scale = Math.min(...size.map((length, axis) => fround(networkSize[axis] / length)));
  return size.map((length, axis) => {
    const scaled = roundHalfToEven(fround(length * scale));
    return Math.min(Math.max(scaled, 1), networkSize[axis]);
  });
}

function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** The two source pixels of each pixel of one axis, half-pixel centers, and the second's weight. */
function interpolation(length, scaledLength) {
  const scale = fround(length / scaledLength);
  const lower = new Int32Array(scaledLength);
  const upper = new Int32Array(scaledLength);
  const weight = new Float32Array(scaledLength);
  for (let i = 0; i < scaledLength; i++) {
    const position = fround(fround(fround(i + 0.5) * scale) - 0.5);
    const floor = Math.floor(position);
    lower[i] = Math.max(floor, 0);
    upper[i] = Math.min(Math.ceil(position), length - 1);
    weight[i] = position - floor;
  }
  return { lower, upper, weight };
}

/**
 * Cuts a mask to its valid part and resizes that, as
 * `panoptic_tf.metrics.original_size.restore_original_size` does: the nearest pixel.
 *
 * @param {Int32Array} mask of rows of `width` values.
 * @param {number} width
 * @param {number[]} validSize the top-left part that the image fills.
 * @param {number[]} size of the result.
 */
export function resizeMask(mask, width, validSize, size) {
  const [rows, columns] = size.map((length, axis) => {
    const nearest = (_, i) => Math.floor(((2 * i + 1) * validSize[axis]) / (2 * length));
    return Int32Array.from({ length }, nearest);
  });
  const resized = new Int32Array(size[0] * size[1]);
  let target = 0;
  for (const row of rows) {
    const start = row * width;
    for (let x = 0; x < size[1]; x++) resized[target++] = mask[start + columns[x]];
  }
  return resized;
}

/**
 * The segments of an image, as `panoptic_tf.PanopticResult` has them.
 *
 * @param {Object} outputs of the model, batch 1: by name {data, shape}.
 * @param {number[]} size of the image.
 * @returns {{ids: Int32Array, segments: Object[]}} the segment of each pixel, 0 is void; segments
 *   by category, then instance: id, category, instance, score (null where there is none), area in
 *   pixels, box [x, y, width, height], rank among its category's, from top to bottom.
 */
export function toResult(outputs, size) {
  const category = outputs.category_mask ?? outputs.semantic_mask;
  const instances = outputs.category_mask ? outputs.instance_mask?.data : null;
  const numberOf = new Map([[0, 0]]); // by key
  const numbers = Int32Array.from(category.data, (id, i) => {
    const key = keyOf(id, instances ? instances[i] : 0);
    if (!numberOf.has(key)) numberOf.set(key, numberOf.size);
    return numberOf.get(key);
  });
  const ids = resizeMask(numbers, category.shape[2], outputs.image_size.data, size);
  const extents = measure(ids, size[1], numberOf.size);
  const scores = scoresByKey(outputs);
  const found = [...numberOf].filter(([key, number]) => key && extents[number].area);
  found.sort(([, a], [, b]) => extents[a].first - extents[b].first);
  const ranks = new Map();
  const idOf = new Int32Array(numberOf.size);
  const segments = found.map(([key, number]) => {
    const { area, left, right, top, bottom } = extents[number];
    const [ofCategory, instance] = [Math.floor(key / 2 ** 31), key % 2 ** 31];
    const rank = ranks.get(ofCategory) ?? 0;
    ranks.set(ofCategory, rank + 1);
    const box = [left, top, right - left + 1, bottom - top + 1];
    const score = scores.get(key) ?? null;
    return { id: 0, number, category: ofCategory, instance, score, area, box, rank };
  });
  segments.sort((a, b) => a.category - b.category || a.instance - b.instance);
  segments.forEach((segment, row) => (idOf[segment.number] = segment.id = row + 1));
  for (let i = 0; i < ids.length; i++) ids[i] = idOf[ids[i]];
  return { ids, segments: segments.map(({ number, ...segment }) => segment) };
}

/** Area, first pixel and extent of each number in a mask. */
function measure(mask, width, count) {
  const extents = Array.from({ length: count }, () => ({
    area: 0, first: -1, left: width, right: -1, top: -1, bottom: -1,
  }));
  for (let i = 0, y = 0, x = 0; i < mask.length; i++, x++) {
    if (x === width) [x, y] = [0, y + 1];
    const extent = extents[mask[i]];
    if (!extent.area++) [extent.first, extent.top] = [i, y];
    extent.bottom = y;
    if (x < extent.left) extent.left = x;
    if (x > extent.right) extent.right = x;
  }
  return extents;
}

function scoresByKey(outputs) {
  const scores = new Map();
  const count = outputs.num_segments?.data[0] ?? 0;
  for (let row = 0; row < count; row++) {
    const key = keyOf(outputs.segment_category.data[row], outputs.segment_instance.data[row]);
    scores.set(key, outputs.segment_score.data[row]);
  }
  return scores;
}

const OPACITY = { segment: 153, border: 217, void: 140, others: 40 };
const WHITE = [255, 255, 255];
const BLACK = [0, 0, 0];

/**
 * Paints segments, to be laid over the photograph.
 *
 * @param {Int32Array} ids the segment of each pixel.
 * @param {number[]} size of them.
 * @param {number[][]} colors [red, green, blue] by id; entry 0 is not used.
 * @param {number} [highlighted] id of the one segment that stands out; 0 for all.
 * @returns {Uint8ClampedArray} RGBA.
 */
export function paint(ids, [height, width], colors, highlighted = 0) {
  const painted = new Uint8ClampedArray(height * width * 4);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    const isBorder = (i % width && id !== ids[i - 1]) || (i >= width && id !== ids[i - width]);
    const color = isBorder ? WHITE : id ? colors[id] : BLACK;
    let opacity = OPACITY[isBorder ? "border" : id ? "segment" : "void"];
    if (highlighted && id !== highlighted) opacity = OPACITY.others;
    for (let channel = 0; channel < 3; channel++) painted[i * 4 + channel] = color[channel];
    painted[i * 4 + 3] = opacity;
  }
  return painted;
}
