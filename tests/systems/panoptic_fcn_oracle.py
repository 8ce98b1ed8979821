"""The published inference of Panoptic FCN, step by step, for one image, in NumPy (float64).

Panoptic FCN (arXiv:2012.00720) as dvlab-research/PanopticFCN computes it: varying numbers of
kernels, loops over cells, clusters and instances. Departures, each said where it is: cells in the
frame's padding do not count, equal kernels are similar at every threshold. An image without a stuff
kernel, where that code fails, has no stuff.
"""

import numpy as np

POOL_SIZES = {"3": 3, "4": 3, "5": 3, "6": 5, "7": 5}
NEAR = 1e-5


def oracle(
    raw,
    embeddings,
    encoded,
    *,
    image_size,
    output_size,
    stuff_labels=None,
    center_threshold=0.05,
    stuff_threshold=0.05,
    top_k=50,
    fuse_kernels=True,
    similarity_threshold=0.9,
    class_aware=True,
    mask_threshold=0.4,
    min_score=0.05,
    max_instances=100,
    score_threshold=0.2,
    overlap_threshold=0.5,
    stuff_area=4096,
):
    """From raw outputs of the heads to a panoptic map.

    Args:
      raw: {"center_logits": {level: [h, w, T]}, "stuff_logits": {level: [h, w, S]}, "kernels":
        {level: [h, w, D]}}, levels are "3".."7"; one of the first two may be absent.
      embeddings: {"thing": (weight [D, C], bias [C]), "stuff": the same}.
      encoded: [h4, w4, C], stride 4 of the network's frame.
      image_size: (height, width) of the image in the network's frame, the rest is padding.
      output_size: (height, width) of the answer.
      stuff_labels: label of each stuff channel, 0 is "things"; default 0..S-1.
      Others: see the system's configuration.

    Returns:
      "panoptic": int [height, width], 0 is void.
      "segments": dicts of its ids 1, 2, ..., with is_thing, label (thing class from 0, or stuff
        label), area, and of things score and row of the instance.
      "instances": dicts of score, label, mask before the merge; is_near is True where a pixel of
        the mask is decided by rounding.
      "semantic": int [height, width], stuff label, 0 where things or nothing.
      "is_certain": bool [height, width], False where rounding decides about the answer.
    """
    frame = tuple(4 * side for side in np.shape(encoded)[:2])
    num_cells = {level: np.prod(np.shape(x)[:2]) for level, x in raw["kernels"].items()}
    raw = {
        name: {level: image_cells(x, image_size, frame) for level, x in levels.items()}
        for name, levels in raw.items()
    }
    encoded = np.asarray(encoded, np.float64)

    instances, is_certain = [], np.ones(output_size, bool)
    if "center_logits" in raw:
        limits = {level: min(top_k, count) for level, count in num_cells.items()}
        centers = find_centers(raw["center_logits"], raw["kernels"], limits, center_threshold)
        kernels, scores, labels = fuse_centers(
            centers,
            embeddings["thing"],
            similarity_threshold=similarity_threshold if fuse_kernels else 2.0,
            class_aware=class_aware,
        )
        soft_masks = [sigmoid(encoded @ kernel) for kernel in kernels]
        inside = [image_cells(soft, image_size, frame) for soft in soft_masks]
        best = rescore(inside, scores, mask_threshold, min_score)[:max_instances]
        for row, score in best:
            soft = to_image(soft_masks[row][..., np.newaxis], image_size, output_size)[..., 0]
            mask, is_near = soft > mask_threshold, np.abs(soft - mask_threshold) <= NEAR
            instances.append(
                {"score": score, "label": labels[row], "mask": mask, "is_near": is_near}
            )
            if score >= score_threshold:
                is_certain &= ~is_near

    semantic = np.zeros(output_size, int)
    if "stuff_logits" in raw:
        found = find_stuff(raw["stuff_logits"], raw["kernels"], stuff_threshold)
        if found:
            channels, kernels = average_by_category(found, embeddings["stuff"])
            soft = to_image(sigmoid(encoded @ kernels.T), image_size, output_size)  # [H, W, N]
            labels = channels if stuff_labels is None else np.asarray(stuff_labels)[channels]
            semantic = labels[np.argmax(soft, axis=-1)]
            steps = np.diff(np.sort(soft, axis=-1))  # [H, W, N - 1], from the lowest up
            is_certain &= steps[..., -1:].min(axis=-1, initial=1.0) > NEAR

    panoptic, segments = combine(
        instances,
        semantic,
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        stuff_area=stuff_area,
    )
    return {
        "panoptic": panoptic,
        "segments": segments,
        "instances": instances,
        "semantic": semantic,
        "is_certain": is_certain,
    }


# Positions


def find_centers(logits_by_level, kernels_by_level, limits, threshold):
    """Peaks of the smoothed center maps by falling score: dicts of score, label, kernel.

    Of a level at most `limits[level]`.
    """
    centers = []
    for level, logits in logits_by_level.items():
        probability, kernels = sigmoid(logits), kernels_by_level[level]
        height, width, _ = probability.shape
        smooth = (probability + average_pool(probability, POOL_SIZES[level])) / 2
        peaks = []
        for y, x in np.ndindex(height, width):
            around = smooth[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            for label in np.flatnonzero(smooth[y, x] == around.max(axis=(0, 1))):
                score = smooth[y, x, label]
                peaks.append({"score": score, "label": int(label), "kernel": kernels[y, x]})
        peaks.sort(key=lambda peak: -peak["score"])
        centers += [p for p in peaks[: limits[level]] if p["score"] > threshold]
    return sorted(centers, key=lambda center: -center["score"])


def find_stuff(logits_by_level, kernels_by_level, threshold):
    """The kernel of every stuff channel on every level that has it: dicts of channel, kernel."""
    found = []
    for level, logits in logits_by_level.items():
        probability, kernels = sigmoid(logits), kernels_by_level[level]
        best = np.argmax(probability, axis=-1)
        for channel in np.unique(best):
            is_channel = best == channel
            if probability[is_channel, channel].mean() > threshold:
                # Summed over the cells of the channel, divided by the number of all cells.
                kernel = kernels[is_channel].sum(axis=0) / best.size
                found.append({"channel": int(channel), "kernel": kernel})
    return found


def image_cells(values, image_size, frame):
    """Cuts off the cells that begin in the padding of the frame: [h, w, ...] -> [h', w', ...].

    A level's cells divide the frame evenly. Published: cells of the padding count like others, but
    a frame there is hardly larger than its image.
    """
    cells = np.shape(values)[:2]
    height, width = (
        -(-int(side) * count // whole) for side, count, whole in zip(image_size, cells, frame)
    )
    return np.asarray(values, np.float64)[:height, :width]


def average_pool(values, size):
    """Means over windows of size x size; what is beyond the border counts as zero."""
    pooled = np.zeros_like(values)
    reach = size // 2
    for y, x in np.ndindex(values.shape[:2]):
        window = values[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        pooled[y, x] = window.sum(axis=(0, 1)) / size**2
    return pooled


# Kernels


def embed(kernels, embedding):
    """A 1x1 convolution: [N, D] -> [N, C]."""
    weight, bias = (np.asarray(part, np.float64) for part in embedding)
    return np.asarray(kernels) @ weight + bias


def fuse_centers(centers, embedding, *, similarity_threshold, class_aware):
    """Embeds and fuses: kernels [N, C], scores and labels of what is left, by falling score."""
    if not centers:
        return [], [], []
    kernels = embed([center["kernel"] for center in centers], embedding)
    labels = [center["label"] for center in centers]
    clusters = find_clusters(kernels, labels, similarity_threshold, class_aware)
    fused = [kernels[members].mean(axis=0) for members in clusters.values()]
    return fused, [centers[i]["score"] for i in clusters], [labels[i] for i in clusters]


def find_clusters(kernels, labels, similarity_threshold, class_aware):
    """Kernels, by falling score, that mean the same object: {first: members}, each with its first.

    A kernel goes to the first kernel before it that is similar. Where that one has itself gone to
    another, the kernel is dropped: it is in no cluster.
    """
    clusters = {}
    for j in range(len(kernels)):
        first = j
        for i in range(j):
            may_fuse = labels[i] == labels[j] or not class_aware
            if may_fuse and cosine(kernels[i], kernels[j]) >= similarity_threshold:
                first = i
                break
        if first == j:
            clusters[j] = [j]
        elif first in clusters:
            clusters[first].append(j)
    return clusters


def cosine(a, b):
    """Cosine similarity; exactly 1 for equal kernels (published: rounding decides)."""
    if np.array_equal(a, b):
        return 1.0
    return a @ b / (max(np.linalg.norm(a), 1e-8) * max(np.linalg.norm(b), 1e-8))


def average_by_category(found, embedding):
    """Channels [N], ascending, and the means [N, C] of their embedded kernels over the levels."""
    embedded = embed([stuff["kernel"] for stuff in found], embedding)
    channel_of = np.array([stuff["channel"] for stuff in found])
    channels = np.unique(channel_of)
    return channels, np.stack([embedded[channel_of == c].mean(axis=0) for c in channels])


# Masks


def rescore(soft_masks, scores, mask_threshold, min_score):
    """Scores times the mean probability inside of the masks: (row, score) of enough, falling."""
    kept = []
    for row, (soft, score) in enumerate(zip(soft_masks, scores)):
        mask = soft > mask_threshold
        score = score * (soft[mask].sum() / (mask.sum() + 1e-6))
        if score >= min_score:
            kept.append((row, score))
    return sorted(kept, key=lambda pair: -pair[1])


def to_image(maps, image_size, output_size):
    """Bilinear by four, cut to the image, bilinear to the output: [h4, w4, N] -> [H, W, N]."""
    height, width = maps.shape[:2]
    maps = resize(maps, (4 * height, 4 * width))[: image_size[0], : image_size[1]]
    return resize(maps, output_size)


def resize(maps, size):
    """Bilinear with half-pixel centers, the border repeated: [h, w, N] -> [*size, N]."""
    for axis in (0, 1):
        length = maps.shape[axis]
        position = (np.arange(size[axis]) + 0.5) * length / size[axis] - 0.5
        position = np.clip(position, 0, length - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, length - 1)
        share = np.expand_dims(position - low, (1, 2) if axis == 0 else (0, 2))
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def sigmoid(logits):
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


# Merge


def combine(instances, semantic, *, score_threshold, overlap_threshold, stuff_area):
    """Instances by falling score on the pixels that are free, then stuff on the rest.

    Args:
      instances: dicts of score, label, mask bool [H, W].
      semantic: int [H, W], stuff label, 0 is none.
      score_threshold, overlap_threshold, stuff_area: see the system's configuration.

    Returns:
      int [H, W], 0 is void, and dicts of the segments 1, 2, ...
    """
    panoptic = np.zeros(semantic.shape, int)
    segments = []
    for row, instance in enumerate(instances):
        mask = instance["mask"]
        taken = (mask & (panoptic > 0)).sum()
        if instance["score"] < score_threshold or not mask.any():
            continue
        if taken / mask.sum() > overlap_threshold:
            continue
        mask = mask & (panoptic == 0)
        segments.append(
            {
                "id": len(segments) + 1,
                "is_thing": True,
                "label": instance["label"],
                "score": instance["score"],
                "instance": row,
                "area": int(mask.sum()),
            }
        )
        panoptic[mask] = len(segments)
    for label in np.unique(semantic[semantic > 0]):
        mask = (semantic == label) & (panoptic == 0)
        if mask.sum() < max(stuff_area, 1):
            continue
        segments.append(
            {
                "id": len(segments) + 1,
                "is_thing": False,
                "label": int(label),
                "area": int(mask.sum()),
            }
        )
        panoptic[mask] = len(segments)
    return panoptic, segments
