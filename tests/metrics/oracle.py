"""Panoptic quality in plain loops, segment by segment and pixel by pixel."""

import numpy as np


def segments_of(category_mask, instance_mask, crowd_mask=None):
    """[(category, is_crowd, set of pixels)] in order of (category, instance); void is left out."""
    crowd_mask = np.zeros_like(category_mask, bool) if crowd_mask is None else crowd_mask
    pixels = {}
    for y, x in np.ndindex(category_mask.shape):
        if category_mask[y, x]:
            key = (int(category_mask[y, x]), int(instance_mask[y, x]), bool(crowd_mask[y, x]))
            pixels.setdefault(key, set()).add((y, x))
    return [(key[0], key[2], pixels[key]) for key in sorted(pixels)]


def panoptic_quality(
    gt_category, gt_instance, gt_crowd, category, instance, num_categories, crowd_rule
):
    """float64 [N + 1, 4]: sum of IoU, TP, FP, FN."""
    truths = segments_of(gt_category, gt_instance, gt_crowd)
    found = segments_of(category, instance)
    void = {(y, x) for y, x in np.ndindex(gt_category.shape) if not gt_category[y, x]}
    state = np.zeros((num_categories + 1, 4))
    matched_truths, matched_found = set(), set()
    for i, (truth_category, is_crowd, truth) in enumerate(truths):
        for j, (found_category, _, pixels) in enumerate(found):
            if is_crowd or truth_category != found_category:
                continue
            iou = len(truth & pixels) / len((truth | pixels) - (void & pixels))
            if iou > 0.5:
                state[truth_category, :2] += (iou, 1)
                matched_truths.add(i)
                matched_found.add(j)
    for i, (truth_category, is_crowd, _) in enumerate(truths):
        if not is_crowd and i not in matched_truths:
            state[truth_category, 3] += 1
    for j, (found_category, _, pixels) in enumerate(found):
        if j in matched_found:
            continue
        crowds = [p for c, is_crowd, p in truths if is_crowd and c == found_category]
        crowds = crowds[-1:] if crowd_rule == "last" else crowds
        forgiven = len(pixels & void) + sum(len(pixels & crowd) for crowd in crowds)
        if forgiven / len(pixels) <= 0.5:
            state[found_category, 2] += 1
    return state
