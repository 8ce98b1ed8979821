"""Cases in COCO panoptic format with what a reference counted in them."""

import json
import pathlib

import numpy as np
from PIL import Image

from panoptic_tf.metrics import matching, segments
from panoptic_tf.metrics.panoptic_quality import PanopticQuality

CASES = pathlib.Path(__file__).parents[1] / "golden" / "pq_case"


def check(folder, recorded, *, boundary_ratio=0.0):
    """Scores a case, by its boundaries where they have a width.

    Args:
      folder: with `gt.json`, `gt/`, `pred.json` and `pred/`.
      recorded: `cat_id` and `isthing` of C categories; `iou`, `tp`, `fp` and `fn`, [C] each;
        `averages`, [3, >= 3]: PQ, SQ, RQ of all, things and stuff.
      boundary_ratio: width as a share of the diagonal.
    """
    category_ids = recorded["cat_id"].tolist()
    contiguous = {category: i for i, category in enumerate(category_ids, start=1)}
    things = [i for i, is_thing in enumerate(recorded["isthing"], start=1) if is_thing]
    truth, prediction = (
        json.loads((folder / name).read_text()) for name in ("gt.json", "pred.json")
    )
    by_image = {a["image_id"]: a for a in prediction["annotations"]}
    metric = PanopticQuality(num_categories=len(category_ids), thing_ids=things)
    for annotation in truth["annotations"]:
        overlaps = segments.count_overlaps(
            _read_labels(folder / "gt", annotation, contiguous),
            _read_labels(folder / "pred", by_image[annotation["image_id"]], contiguous),
            boundary_ratio=boundary_ratio,
        )
        matches = matching.match_segments(
            overlaps,
            num_categories=len(category_ids),
            crowd_rule="last",
            use_boundaries=boundary_ratio > 0,
        )
        metric.update_matches(overlaps, matches)
    columns = np.stack([recorded[key] for key in ("iou", "tp", "fp", "fn")], axis=1)
    np.testing.assert_allclose(metric.state()[1:], columns, rtol=1e-12)
    result = metric.result()
    for suffix, row in zip(("", "_things", "_stuff"), recorded["averages"]):
        names = [result[name + suffix] for name in ("PQ", "SQ", "RQ")]
        np.testing.assert_allclose(names, 100 * row[:3], rtol=1e-12)


def _read_labels(folder, annotation, contiguous):
    rgb = np.asarray(Image.open(folder / annotation["file_name"]).convert("RGB"), np.int64)
    listed = annotation["segments_info"]
    return segments.label_id_map(
        rgb @ [1, 256, 256**2],
        ids=[s["id"] for s in listed],
        categories=[contiguous[s["category_id"]] for s in listed],
        is_crowd=[s.get("iscrowd", 0) for s in listed],
    )
