import subprocess
import sys

from panoptic_tf import structures
from panoptic_tf.structures import GroundTruth, ImageInfo, PanopticSample, Prediction


def keys(names):
    return [v for k, v in vars(names).items() if k.isupper() and isinstance(v, str)]


def test_key_names_are_unique():
    for names in (Prediction, GroundTruth):
        assert len(keys(names)) == len(set(keys(names)))


def test_a_prediction_is_panoptic_and_semantic_and_detected():
    groups = (
        *Prediction.PANOPTIC_KEYS,
        Prediction.SEMANTIC_MASK,
        *Prediction.DETECTION_KEYS,
        Prediction.DETECTION_BIT_MASKS,
    )
    assert sorted(groups) == sorted(keys(Prediction))
    masks = {Prediction.DETECTION_MASKS, Prediction.DETECTION_BIT_MASKS}
    both_kinds = set(Prediction.DETECTION_KEYS) ^ set(Prediction.BIT_MASK_DETECTION_KEYS)
    assert both_kinds == masks
    assert set(GroundTruth.INSTANCE_KEYS) < set(keys(GroundTruth))


def test_ground_truth_and_prediction_name_the_same_masks_the_same():
    shared = {Prediction.CATEGORY_MASK, Prediction.INSTANCE_MASK, Prediction.IMAGE_SIZE}
    assert shared <= set(keys(GroundTruth))


def test_image_info_rows():
    rows = [ImageInfo.ORIGINAL_SIZE, ImageInfo.NETWORK_SIZE, ImageInfo.SCALE, ImageInfo.OFFSET]
    assert rows == [0, 1, 2, 3]
    assert structures.VOID == 0
    assert PanopticSample._field_defaults == {"instances": None, "seed": None}


def test_importing_structures_does_not_start_tensorflow():
    code = "import sys, panoptic_tf.structures; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
