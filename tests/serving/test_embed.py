"""What the program of export/embed says; what it returns is in the contract of the systems."""

import os
import shutil

import pytest
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from panoptic_tf.datasets import shapes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(saved_model_dir):
    """A SavedModel."""
    return os.path.join(saved_model_dir, "1")


def assert_fails(ended, message):
    assert ended.returncode == 1
    said = ended.stderr.splitlines()[-1]  # libjpeg may say something before
    assert said.startswith("panoptic: ") and message in said, ended.stderr


def test_c_program_says_what_is_wrong(c_program, folder, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no photograph")
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    for arguments, message in (
        ([folder, text, tmp_path / "x_"], f"{text}: no JPEG or PNG"),
        ([folder, tmp_path / "none.jpg", tmp_path / "x_"], "none.jpg cannot be opened"),
        ([tmp_path, photo, tmp_path / "x_"], f"{tmp_path}: "),
        ([folder, photo, tmp_path / "x_", "nothing"], "has no signature nothing"),
        ([folder, photo, tmp_path / "x_", "image_tensor"], "no tensor image_bytes"),
        ([folder, photo, tmp_path / "no_folder" / "x_"], "cannot be written"),
    ):
        assert_fails(c_program.run(*arguments), message)
        assert not list(tmp_path.glob("x_*"))
    assert c_program.run().returncode == 2


def test_c_program_that_cannot_write(c_program, folder, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    (tmp_path / "x_category.pgm").mkdir()
    assert_fails(c_program.run(folder, photo, tmp_path / "x_"), "x_category.pgm cannot be written")
    assert [path.name for path in tmp_path.glob("x_*")] == ["x_category.pgm"]
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        ended = c_program.run(folder, photo, tmp_path / "y_", stdout=full)
    assert_fails(ended, "standard output cannot be written")
    assert not list(tmp_path.glob("y_*"))


@pytest.mark.parametrize(
    "index, message",
    [
        ("x", "no number from 0"),
        ("", "no number from 0"),
        ("1x", "no number from 0"),
        ("-1", "no number from 0"),
        (str(2**32), "no number from 0"),
        (str(2**70), "no number from 0"),
        ("77", "no output 77 for valid"),
    ],
)
def test_c_program_refuses_the_number_of_an_output(index, message, c_program, folder, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    model = saved_model_pb2.SavedModel.FromString((changed / "saved_model.pb").read_bytes())
    output = model.meta_graphs[0].signature_def["image_bytes"].outputs["valid"]
    output.name = f"{output.name.split(':')[0]}:{index}"
    (changed / "saved_model.pb").write_bytes(model.SerializeToString())
    photo = tmp_path / "photo.png"
    Image.fromarray(shapes.generate_image(5, 0, 64).image).save(photo)
    assert_fails(c_program.run(changed, photo, tmp_path / "x_"), message)
