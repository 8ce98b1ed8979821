"""`panoptic-tf score`: files in, metrics.json out, errors that name file, image and segment."""

import json
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from panoptic_tf.datasets.coco_format import CocoPanopticWriter
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.evaluation import result_files
from panoptic_tf.metrics import calibration
from panoptic_tf.metrics.evaluator import PanopticEvaluator

CASE = pathlib.Path(__file__).parents[1] / "golden" / "pq_case"


def save_png(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def write_case(folder, *, image_id=5):
    """One image, 4x6: a crowd, a thing, a stuff and void; the prediction is the ground truth."""
    ids = np.array([[300, 300, 7, 7, 9, 0]] * 4)
    categories = [
        {"id": 10, "name": "cat", "isthing": 1},
        {"id": 20, "name": "sky", "isthing": 0},
    ]
    listed = [
        {"id": 300, "category_id": 10, "iscrowd": 1},
        {"id": 9, "category_id": 10, "iscrowd": 0},
        {"id": 7, "category_id": 20, "iscrowd": 0},
    ]
    for name in ("truth", "found"):
        save_png(folder / name / "a.png", ids)
        annotation = {"image_id": image_id, "file_name": "a.png", "segments_info": listed}
        content = {"annotations": [annotation]}
        if name == "truth":
            content["categories"] = categories
            content["images"] = [{"id": image_id, "file_name": "a.jpg", "height": 4, "width": 6}]
        (folder / f"{name}.json").write_text(json.dumps(content))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run(folder, **kwargs):
    return result_files.score_files(
        panoptic_json=str(folder / "truth.json"),
        predictions_json=str(folder / "found.json"),
        **kwargs,
    )


@pytest.mark.reference
@pytest.mark.parametrize("name", ["synth_0", "synth_1"])
def test_recorded(golden, name):
    folder, recorded = CASE / name, golden(f"pq_{name}")
    metrics = result_files.score_files(
        panoptic_json=str(folder / "gt.json"),
        predictions_json=str(folder / "pred.json"),
        panoptic_dir=str(folder / "gt"),
        predictions_dir=str(folder / "pred"),
        crowd_rule="last",
    )
    for suffix, row in zip(("", "_things", "_stuff"), recorded["averages"]):
        found = [metrics[key + suffix] for key in ("PQ", "SQ", "RQ")]
        np.testing.assert_allclose(found, 100 * row[:3], rtol=1e-12)
    rows = metrics["per_category"]
    for key in ("tp", "fp", "fn"):
        assert [row[key] for row in rows] == recorded[key].tolist()
    assert metrics["AP"] is None


@pytest.mark.reference
def test_recorded_boundaries_in_processes(golden):
    folder, recorded = CASE / "synth_0", golden("boundary_pq_synth_0")
    for i, ratio in enumerate(recorded["ratios"]):
        metrics = result_files.score_files(
            panoptic_json=str(folder / "gt.json"),
            predictions_json=str(folder / "pred.json"),
            panoptic_dir=str(folder / "gt"),
            predictions_dir=str(folder / "pred"),
            crowd_rule="last",
            boundary_ratio=float(ratio),
            num_processes=1 + i,
        )
        for suffix, row in zip(("", "_things", "_stuff"), recorded["averages"][i]):
            found = [metrics[f"{key}_boundary{suffix}"] for key in ("PQ", "SQ", "RQ")]
            np.testing.assert_allclose(found, 100 * row[:3], rtol=1e-12)
        lost = sum(row["PQ_lost"] for row in metrics["errors"])
        assert lost == pytest.approx(100 - metrics["PQ"])


@pytest.mark.reference
def test_recorded_sample_in_processes(reference_data):
    folder = reference_data / "golden" / "pq_case"
    metrics = result_files.score_files(
        panoptic_json=str(folder / "gt.json"),
        predictions_json=str(folder / "pred.json"),
        panoptic_dir=str(folder / "gt"),
        predictions_dir=str(folder / "pred"),
        crowd_rule="last",
        num_processes=2,
    )
    recorded = np.load(reference_data / "golden" / "pq_sample.npz")
    found = [metrics[key] for key in ("PQ", "SQ", "RQ")]
    np.testing.assert_allclose(found, 100 * recorded["averages"][0, :3], rtol=1e-12)


def test_ground_truth_scores_100(tmp_path):
    write_case(tmp_path)
    metrics = run(tmp_path)
    assert metrics["PQ"] == metrics["PQ_things"] == metrics["PQ_stuff"] == metrics["mIoU"] == 100
    assert [row["dataset_id"] for row in metrics["per_category"]] == [10, 20]
    assert metrics["per_category"][0]["tp"] == 1  # the crowd is no match


def test_images_of_the_ground_truth_may_be_missing(tmp_path):
    write_case(tmp_path, image_id="frankfurt_0")
    edit(tmp_path / "truth.json", lambda content: content.pop("images"))
    assert run(tmp_path)["PQ"] == 100


def test_image_without_segments(tmp_path):
    write_case(tmp_path)
    for name in ("truth", "found"):
        save_png(tmp_path / name / "a.png", np.zeros((4, 6), int))
        edit(tmp_path / f"{name}.json", lambda c: c["annotations"][0].update(segments_info=[]))
    metrics = run(tmp_path)
    assert metrics["PQ"] is None
    assert metrics["mIoU"] is None


def test_prediction_of_another_image_is_ignored_with_a_warning(tmp_path):
    write_case(tmp_path)
    extra = {"image_id": 77, "file_name": "none.png", "segments_info": []}
    edit(tmp_path / "found.json", lambda content: content["annotations"].append(extra))
    with pytest.warns(UserWarning, match="found.json: 1 predictions are of images"):
        assert run(tmp_path)["PQ"] == 100


def segment(content, row=0):
    return content["annotations"][0]["segments_info"][row]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["annotations"].clear(), r"found\.json: .*image_id 5"),
        (
            lambda c: segment(c).update(id=301),
            r"found/a\.png: image_id 5: segment 300 has pixels in the PNG and no entry",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 8, "category_id": 10}),
            r"found/a\.png: image_id 5: segment 8 is in segments_info and has no pixel",
        ),
        (
            lambda c: segment(c, 1).update(category_id=11),
            r"found\.json: annotations\[0\].*segments_info\[1\].*category_id 11",
        ),
        (lambda c: c["annotations"][0].update(file_name="../a.png"), r"found\.json.*'\.\./a\.png'"),
        (lambda c: c["annotations"][0].update(file_name="b.png"), r"found/b\.png: no such file"),
        (lambda c: c.pop("annotations"), r"found\.json: 'annotations' must be a list"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            r"found\.json: annotations\[1\]\.image_id 5 has an annotation already",
        ),
    ],
)
def test_errors_of_predictions(tmp_path, change, message):
    write_case(tmp_path)
    edit(tmp_path / "found.json", change)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)


def test_error_of_the_ground_truth_names_its_file(tmp_path):
    write_case(tmp_path)
    edit(tmp_path / "truth.json", lambda content: segment(content).update(id=301))
    with pytest.raises(ValueError, match=r"truth/a\.png: image_id 5: segment 300"):
        run(tmp_path)


@pytest.mark.parametrize("with_images", [True, False])
def test_sizes_differ(tmp_path, with_images):
    write_case(tmp_path)
    if not with_images:
        edit(tmp_path / "truth.json", lambda content: content.pop("images"))
    save_png(tmp_path / "found" / "a.png", np.array([[300, 7, 9, 0]] * 4))
    with pytest.raises(ValueError, match=r"found/a\.png: image_id 5 must .*\(4, 6\).*\(4, 4\)"):
        run(tmp_path)


def test_size_is_compared_before_pixels_are_decoded(tmp_path):
    write_case(tmp_path)
    path = tmp_path / "found" / "a.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))  # its pixels end early
    with pytest.raises(ValueError, match=r"found/a\.png: image_id 5 must .*\(30000, 30000\)"):
        run(tmp_path)


CATEGORIES = [{"id": 20, "name": "sky", "isthing": 0}, {"id": 10, "name": "cat", "isthing": 1}]


@pytest.mark.parametrize(
    "categories",
    [
        CATEGORIES,  # in another order
        CATEGORIES[:1],
        [*CATEGORIES, {"id": 99, "name": "more", "isthing": 1}],
        [{"id": 10}, {"id": 20, "name": "sky"}],
    ],
)
def test_categories_of_the_predictions_agree(tmp_path, categories):
    write_case(tmp_path)
    edit(tmp_path / "found.json", lambda content: content.update(categories=categories))
    assert run(tmp_path)["PQ"] == 100


@pytest.mark.parametrize(
    "category, message",
    [
        ({"id": 10, "name": "sky"}, r"found\.json: category id 10 is 'sky', and 'cat' in"),
        ({"id": 10, "name": "Cat"}, r"found\.json: category id 10 is 'Cat', and 'cat' in"),
        (
            {"id": 20, "name": "sky", "isthing": 1},
            r"found\.json: category id 20 \('sky'\) is a thing, and stuff in",
        ),
    ],
)
def test_an_id_of_another_name_or_kind_is_an_error(tmp_path, category, message):
    write_case(tmp_path)
    edit(tmp_path / "found.json", lambda content: content.update(categories=[category]))
    with pytest.raises(ValueError, match=message):
        run(tmp_path)


@pytest.mark.parametrize("name", ["truth", "found"])
@pytest.mark.parametrize(
    "unread",
    [
        {"area": 3.75, "bbox": [0.5, 0.5, 1.25, 2.5]},
        {"area": float("nan"), "bbox": [float("nan"), -1, 0, -3]},
        {"area": "many", "bbox": "here"},
        {"area": None, "bbox": None, "score": None, "iscrowd": None},
        {"area": -1, "bbox": [], "isthing": {"a": 1}},
    ],
)
def test_values_that_nothing_reads_end_nothing(tmp_path, name, unread):
    write_case(tmp_path)
    edit(tmp_path / f"{name}.json", lambda content: segment(content, 1).update(unread))
    assert run(tmp_path)["PQ"] == 100


CALIBRATION = (*calibration.METRIC_NAMES, "calibration")


def test_calibration_of_predictions_with_scores(tmp_path):
    write_case(tmp_path)
    without = run(tmp_path)
    assert [without[name] for name in CALIBRATION] == [None, None, None, []]

    def set_scores(content):
        # On a crowd: left out. A match. A match of stuff.
        for row, score in enumerate([0.4, 0.9, 1]):
            segment(content, row)["score"] = score

    edit(tmp_path / "found.json", set_scores)
    metrics = run(tmp_path)
    assert metrics["ECE_things"] == pytest.approx(100 * (1 - 0.9))
    assert metrics["ECE_stuff"] == 0
    assert metrics["ECE"] == pytest.approx(100 * (1 - 0.9) / 2)
    assert [row["segments"] for row in metrics["calibration"]] == [1, 1]
    assert {**metrics, **{name: without[name] for name in CALIBRATION}} == without


def test_segments_without_a_score_are_left_out_of_calibration(tmp_path):
    write_case(tmp_path)
    edit(tmp_path / "found.json", lambda content: segment(content, 1).update(score=0.25))
    edit(tmp_path / "truth.json", lambda content: segment(content, 1).update(score="unread"))
    metrics = run(tmp_path)
    assert (metrics["ECE"], metrics["ECE_things"], metrics["ECE_stuff"]) == (75, 75, None)


@pytest.mark.parametrize("score", ["high", True, -0.1, 1.5, 10**400, float("nan"), [1]])
def test_scores_of_another_kind_leave_calibration_out_with_a_warning(tmp_path, score):
    write_case(tmp_path)
    edit(tmp_path / "found.json", lambda content: segment(content, 1).update(score=0.25))
    edit(tmp_path / "found.json", lambda content: segment(content, 2).update(score=score))
    with pytest.warns(UserWarning, match=r"found\.json: image_id 5: the score of segment 7 is no"):
        metrics = run(tmp_path)
    assert metrics["PQ"] == 100
    assert [metrics[name] for name in CALIBRATION] == [None, None, None, []]


def draw(rng):
    """Masks of categories and instances, 1 and 2 are things; void is 0."""
    instances = np.kron(rng.integers(0, 9, (4, 5)), np.ones((5, 4), int))
    categories = rng.integers(0, 4, 9)[instances]
    return categories, np.where((categories == 1) | (categories == 2), instances, 0)


def test_calibration_is_that_of_the_evaluation_that_wrote_the_files(tmp_path):
    content = [{"id": i, "name": name} for i, name in ((9, "cat"), (4, "dog"), (77, "sky"))]
    content = [{**c, "isthing": int(c["name"] != "sky")} for c in content]
    info = DatasetInfo.from_coco(content, name="drawn", source="a test")
    evaluator = PanopticEvaluator(
        num_categories=3, thing_ids=info.thing_ids, category_names=info.names
    )
    rng = np.random.default_rng(3)
    writers = [
        CocoPanopticWriter(str(tmp_path), info, json_name=f"{name}.json", png_dir=name)
        for name in ("truth", "found")
    ]
    for image_id in range(40):
        truth, other = draw(rng), draw(rng)
        noise = rng.random(truth[0].shape) < 0.3
        found = [np.where(noise, theirs, ours) for ours, theirs in zip(truth, other)]
        segment_ids = sorted({pair for pair in zip(*(mask.flat for mask in found)) if pair[0]})
        scores = rng.random(len(segment_ids)).astype(np.float32)
        table = dict(zip(segment_ids, scores.tolist()))
        crowd = truth[1] == 3
        writers[0].add(image_id, str(image_id), *truth, crowd=crowd)
        writers[1].add(image_id, str(image_id), *found, scores=table)
        evaluator.update(
            dict(zip(("category_mask", "instance_mask", "crowd_mask"), (*truth, crowd))),
            {
                "category_mask": found[0],
                "instance_mask": found[1],
                "segment_category": np.array([pair[0] for pair in table]),
                "segment_instance": np.array([pair[1] for pair in table]),
                "segment_score": scores,
            },
        )
    for writer in writers:
        writer.close()
    expected, metrics = evaluator.result(), run(tmp_path)
    assert metrics["PQ"] == pytest.approx(expected["PQ"], rel=1e-12)
    assert len(metrics["calibration"]) > 5
    for name in calibration.METRIC_NAMES:
        assert metrics[name] == pytest.approx(expected[name], rel=1e-12)
    for row, other in zip(metrics["calibration"], expected["calibration"]):
        assert row == pytest.approx(other, rel=1e-12)


def test_shares_of_the_void_are_scored_too(tmp_path):
    """Objects alone are labelled, and found everywhere."""
    truth, found = np.zeros((10, 10), int), np.full((10, 10), 2)
    truth[:2, :2] = found[:2, :2] = 1
    write_case(tmp_path)
    for name, ids in (("truth", truth), ("found", found)):
        save_png(tmp_path / name / "a.png", ids)
        listed = [{"id": i, "category_id": 10} for i in sorted(set(ids.flat)) if i]
        listed = json.loads(json.dumps(listed, default=int))
        edit(
            tmp_path / f"{name}.json",
            lambda c, listed=listed: c["annotations"][0].update(segments_info=listed),
        )
    edit(tmp_path / "truth.json", lambda c: c["images"][0].update(height=10, width=10))
    done = command(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "warning: PQ ignores the void: 96.0% of the pixels are void" in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["PQ"] == 100
    assert (metrics["void_share"], metrics["void_predicted_as_things"]) == (0.96, 1.0)
    assert (metrics["true_things"], metrics["predicted_things"]) == (1, 2)


MEASURED = """
import resource
from panoptic_tf.evaluation import result_files
import sys
truth, found = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(result_files.score_files(panoptic_json=truth, predictions_json=found)["PQ"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_pairs_of_segments(tmp_path):
    """40,000 segments on each side, of which a table of all pairs takes 12 GB."""
    ids = np.arange(1, 40_001).reshape(200, 200)
    listed = [{"id": i, "category_id": 10} for i in range(1, 40_001)]
    write_case(tmp_path)
    for name in ("truth", "found"):
        save_png(tmp_path / name / "a.png", ids)
        edit(tmp_path / f"{name}.json", lambda c: c["annotations"][0].update(segments_info=listed))
    edit(tmp_path / "truth.json", lambda c: c["images"][0].update(height=200, width=200))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "truth.json", tmp_path / "found.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    quality, kilobytes = done.stdout.split()
    assert float(quality) == 100
    assert int(kilobytes) < 300_000


def test_truncated_png(tmp_path):
    write_case(tmp_path)
    path = tmp_path / "found" / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"found/a\.png: cannot be decoded"):
        run(tmp_path)


def command(folder, output_dir):
    return subprocess.run(
        [
            sys.executable,
            str(pathlib.Path(__file__).parents[2] / "experiments" / "score.py"),
            f"--panoptic_json={folder / 'truth.json'}",
            f"--panoptic_dir={folder / 'truth'}",
            f"--predictions_json={folder / 'found.json'}",
            f"--predictions_dir={folder / 'found'}",
            f"--output_dir={output_dir}",
            "--num_processes=1",
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_line(tmp_path):
    write_case(tmp_path)
    done = command(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["PQ"] == 100


def test_command_line_fails_before_the_work_if_it_cannot_write(tmp_path):
    write_case(tmp_path)
    (tmp_path / "file").write_text("")
    done = command(tmp_path, tmp_path / "file")
    assert done.returncode != 0
    assert str(tmp_path / "file") in done.stderr
    assert "file is not a folder" in done.stderr
    assert "image/s" not in done.stderr  # no progress bar was drawn
