"""Runs a .tflite file without TensorFlow: needs ai-edge-litert, NumPy and Pillow, nothing else.

This file imports nothing of its package, so it can be copied beside a model under any name:
`panoptic-tf export-tflite --with_runner` writes it there as `panoptic_tf_lite.py`.

    from panoptic_tf_lite import Model

    result = Model("model.tflite", num_threads=4)("photo.jpg")
    for segment in result.segments:
        print(segment.name, segment.score, segment.area, segment.bbox)

Images are fitted as `panoptic_tf.inputs.geometry.fit_and_pad` does it, to the last bit, and results
are those of `panoptic_tf.Predictor`. Only JPEG differs: Pillow decodes it more exactly than
TensorFlow, by a few steps of 255. Grey PNG of 16 bits is refused here.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import zipfile
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image, ImageOps

__all__ = ["Category", "Model", "Result", "Runner", "Segment", "fit_and_pad", "read_description"]

FILE_NAME = "dataset_info.json"
"""The description in the archive at the end of a .tflite file."""
MAX_BYTES = 4 * 1024 * 1024
"""Longer descriptions are refused: 100,000 categories would fit."""
MAX_PIXELS = 50_000_000
"""Default limit of an image's height times width."""
SIGNATURE = "serving_default"
WHOLE = "whole"
"""The part of a model that such a file holds as a rule; the others have no masks."""

ImageSource = Union[str, "os.PathLike[str]", bytes, np.ndarray, Image.Image]

_IDENTIFIER = b"TFL3"  # bytes 4..8 of every TFLite file
_MAX_ARCHIVE_FILES = 16
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Pillow has readers of other formats that start programs."""
_MORE_THAN_8_BITS = ("I", "F")
_EXPORT_AGAIN = "Export it with `panoptic-tf export-tflite`."


class Category(NamedTuple):
    """One category.

    Attributes:
      id: contiguous id in masks, 1..N.
      dataset_id: the id the data set's own files use.
      name: as the data set spells it.
      is_thing: whether its pixels split into instances.
      color: (red, green, blue), 0..255.
    """

    id: int
    dataset_id: int
    name: str
    is_thing: bool
    color: Tuple[int, int, int]


class Segment(NamedTuple):
    """One predicted segment.

    Attributes:
      id: its id in the id map, 1..S.
      instance_id: its id in `instance_mask`, 0 for stuff.
      category_id: its id in `category_mask`, contiguous.
      dataset_category_id: the data set's own category id.
      name: of the category.
      is_thing: whether the category's pixels split into instances.
      score: 0..1, or None where the model gives none.
      area: pixels.
      bbox: (x, y, width, height) in pixels, as COCO has it.
    """

    id: int
    instance_id: int
    category_id: int
    dataset_category_id: int
    name: str
    is_thing: bool
    score: Optional[float]
    area: int
    bbox: Tuple[int, int, int, int]


class Result(NamedTuple):
    """The panoptic segmentation of one image, in the image's own size.

    Attributes:
      id_map: int32 [H, W], `Segment.id`, 0 is void.
      segments: by category, then instance.
    """

    id_map: np.ndarray
    segments: Tuple[Segment, ...]

    @property
    def category_mask(self) -> np.ndarray:
        """int32 [H, W], contiguous category ids, 0 is void."""
        return self._by_segment("category_id")

    @property
    def instance_mask(self) -> np.ndarray:
        """int32 [H, W], unique in the image, 0 on stuff and void."""
        return self._by_segment("instance_id")

    def _by_segment(self, name: str) -> np.ndarray:
        return np.array([0, *(getattr(s, name) for s in self.segments)], np.int32)[self.id_map]


class Model:
    """Predicts images of any size.

    Args:
      path: a .tflite file with a panoptic or a semantic model.
      num_threads: of the interpreter; default is the runtime's choice.
      delegates: see `Runner`.
      max_pixels: larger images are refused before they are decoded.
      score_threshold: 0..1; things of a lower score become void. Stuff and what has no score stay.

    Attributes:
      categories: tuple of `Category`, in the order of their ids.
      input_size: (height, width) of the network's input.
      experiment: name of the experiment that made it.

    Raises:
      ImportError: ai-edge-litert is not installed.
      ValueError: no such file, or not a model that returns masks; the message says what was found.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        num_threads: Optional[int] = None,
        delegates: Sequence[Any] = (),
        max_pixels: int = MAX_PIXELS,
        score_threshold: Optional[float] = None,
    ):
        if score_threshold is not None and not 0.0 <= score_threshold <= 1.0:
            raise ValueError(f"score_threshold must lie in 0..1, got {score_threshold}.")
        path = os.fspath(path)
        self._runner = Runner(path, num_threads=num_threads, delegates=delegates)
        self.categories, self.input_size, self.experiment = _parse(read_description(path), path)
        if self.input_size != self._runner.input_size:
            raise ValueError(
                f"{path}: its {FILE_NAME} says input size {self.input_size}, the model has "
                f"{self._runner.input_size}."
            )
        if not {"category_mask", "semantic_mask"} & self._runner.output_names:
            raise ValueError(f"{path} only detects: it has boxes and no masks of the whole image.")
        self._max_pixels = max_pixels
        self._score_threshold = score_threshold

    def __call__(self, image: ImageSource) -> Result:
        """Predicts one image.

        Args:
          image: path or bytes of a photograph, whose EXIF orientation is applied; uint8 [H, W, 3]
            RGB; or a Pillow image.

        Raises:
          ValueError: it cannot be read, or is too large; the message names it.
        """
        pixels = read_image(image, max_pixels=self._max_pixels)
        outputs = self._runner(*fit_and_pad(pixels, self.input_size))
        arrays = {key: value[0] for key, value in outputs.items()}
        return _describe(arrays, pixels.shape[:2], self.categories, self._score_threshold)


class Runner:
    """The interpreter of a .tflite file.

    Args:
      path: the file.
      num_threads: threads; default is the runtime's choice.
      delegates: libraries of delegates by path, or what `load_delegate` of ai-edge-litert returned.
      interpreter_class: another than that of ai-edge-litert.

    Attributes:
      input_size: (height, width) of the network's input.
      output_names: set of the outputs.

    Raises:
      ImportError: ai-edge-litert is not installed.
      ValueError: not a TFLite file, not one with the inputs `image` and `image_info`, or a delegate
        cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        *,
        num_threads: Optional[int] = None,
        delegates: Sequence[Any] = (),
        interpreter_class: Optional[Callable[..., Any]] = None,
    ):
        _check_identifier(path)
        interpreter_class = interpreter_class or litert().Interpreter
        options: Dict[str, Any] = {"num_threads": num_threads}
        if delegates:
            options["experimental_delegates"] = [_delegate(each) for each in delegates]
        try:
            interpreter = interpreter_class(model_path=path, **options)
            self._run = interpreter.get_signature_runner(SIGNATURE)
            inputs = self._run.get_input_details()
            self.output_names = set(self._run.get_output_details())
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be loaded: {error}") from error
        if set(inputs) != {"image", "image_info"}:
            raise ValueError(
                f"{path}: expected inputs image and image_info, got {sorted(inputs)}."
                + (" It is a part of a model." if set(inputs) == {"image"} else "")
            )
        self._interpreter = interpreter  # the signature runner does not own it
        self.input_size = tuple(int(v) for v in inputs["image"]["shape"][1:3])

    def __call__(self, image: np.ndarray, image_info: np.ndarray) -> Dict[str, np.ndarray]:
        """Predicts one image: float32 [H, W, 3] and [4, 2] -> predictions with batch 1."""
        return self._run(image=image[np.newaxis], image_info=image_info[np.newaxis])


def litert() -> Any:
    """The module `ai_edge_litert.interpreter`.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise ImportError(
            "running a .tflite file needs the package ai-edge-litert: pip install ai-edge-litert"
        ) from error


def read_description(path: str) -> bytes:
    """Reads what a .tflite file says of itself: JSON of at most `MAX_BYTES` + 1 bytes.

    Raises:
      ValueError: it has none that can be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > _MAX_ARCHIVE_FILES:
                raise ValueError(f"{path}: its archive has over {_MAX_ARCHIVE_FILES} files.")
            with archive.open(FILE_NAME) as file:
                # One byte more than allowed: it is refused, however far it would unpack.
                return file.read(MAX_BYTES + 1)
    except ValueError:
        raise
    except Exception as error:  # zipfile and its decompressors raise what they meet.
        raise ValueError(
            f"{path} holds no readable {FILE_NAME} ({error}); expected a file written by "
            "`panoptic-tf export-tflite`."
        ) from error


def read_image(image: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads one image: uint8 [H, W, 3], RGB; see `Model`.

    Raises:
      ValueError: it cannot be read, or has more than `max_pixels`.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"an image array must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}."
            )
        return image
    name = "the image"
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        try:
            with open(name, "rb") as file:
                image = file.read()
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}; expected a photograph.") from error
    try:
        picture = _open(image) if isinstance(image, bytes) else image
        if not isinstance(picture, Image.Image):
            raise ValueError(f"expected a path, bytes, an array or a Pillow image, got {picture!r}")
        if picture.width * picture.height > max_pixels:
            raise ValueError(f"{picture.height} x {picture.width} pixels, over {max_pixels:,}")
        if picture.mode.startswith(_MORE_THAN_8_BITS):
            raise ValueError(f"mode {picture.mode!r} of Pillow; 8 bits a channel are needed")
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # The file is decoded only now, and Pillow raises what it meets.
        raise ValueError(f"{name} cannot be read: {error}") from error


def fit_and_pad(
    pixels: np.ndarray, size: Sequence[int], *, color: Sequence[float] = (0.0, 0.0, 0.0)
) -> Tuple[np.ndarray, np.ndarray]:
    """Scales an image, up or down, until it just fits into the top-left corner of a frame.

    Args:
      pixels: uint8 [h, w, 3], RGB.
      size: (height, width) of the frame.
      color: RGB of the frame outside of the image.

    Returns:
      float32 [height, width, 3], 0..255; image_info float32 [4, 2], rows (y, x): original size,
      `size`, scale, zeros.
    """
    original, frame = np.array(pixels.shape[:2], np.float32), np.array(size, np.float32)
    scaled = np.clip(np.round(original * (frame / original).min()), 1, frame)
    height, width = scaled.astype(int).tolist()
    image = np.empty([*size, 3], np.float32)
    image[:] = color
    image[:height, :width] = _resize(pixels, height, width)
    return image, np.stack([original, frame, scaled / original, np.zeros_like(frame)])


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centers, in the order of TensorFlow's operations."""
    if pixels.shape[:2] == (height, width):
        return pixels.astype(np.float32)
    (top, bottom, down), (left, right, across) = (
        _neighbours(pixels.shape[axis], length) for axis, length in enumerate((height, width))
    )
    across = across[:, np.newaxis]

    def lines(rows: np.ndarray) -> np.ndarray:
        source = pixels[rows]
        first = source[:, left].astype(np.float32)
        return first + (source[:, right] - first) * across

    upper = lines(top)
    return upper + (lines(bottom) - upper) * down[:, np.newaxis, np.newaxis]


def _neighbours(source: int, length: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels of each of `length` pixels, and how far it is from the first."""
    scale = np.float32(source) / np.float32(length)
    half = np.float32(0.5)
    position = (np.arange(length, dtype=np.float32) + half) * scale - half
    first = np.floor(position)
    upper = np.minimum(np.ceil(position), source - 1).astype(np.intp)
    return np.maximum(first, 0).astype(np.intp), upper, position - first


def _describe(
    arrays: Mapping[str, np.ndarray],
    image_size: Sequence[int],
    categories: Sequence[Category],
    score_threshold: Optional[float],
) -> Result:
    """The segments of what a model gave, masks [H, W] in its own frame."""
    height, width = (int(side) for side in arrays["image_size"])
    key = "category_mask" if "category_mask" in arrays else "semantic_mask"
    category_mask = arrays[key][:height, :width].astype(np.int64)
    instance_mask = np.zeros_like(category_mask)
    if "instance_mask" in arrays:
        instance_mask = arrays["instance_mask"][:height, :width].astype(np.int64)
    scores = _scores(arrays)
    if score_threshold is not None:
        low = [i for (_, i), score in scores.items() if i and score < score_threshold]
        category_mask[np.isin(instance_mask, low)] = 0

    # Segments in the model's frame, which is no larger than the image.
    base = int(instance_mask.max()) + 1
    pairs = np.where(category_mask > 0, category_mask * base + instance_mask, 0)
    found, ids = np.unique(np.append(0, pairs), return_inverse=True)
    ids = ids.reshape(-1)[1:].reshape(pairs.shape).astype(np.int32)
    rows, columns = _source_index(height, image_size[0]), _source_index(width, image_size[1])
    pixels = np.outer(np.bincount(rows, minlength=height), np.bincount(columns, minlength=width))
    areas = np.bincount(ids.ravel(), weights=pixels.ravel()).astype(np.int64)
    segments = []
    for number, pair in enumerate(found.tolist()[1:], start=1):
        category, instance = categories[pair // base - 1], pair % base
        is_inside = ids == number
        y, box_height = _extent(is_inside.any(axis=1), rows)
        x, box_width = _extent(is_inside.any(axis=0), columns)
        segments.append(
            Segment(
                id=number,
                instance_id=instance,
                category_id=category.id,
                dataset_category_id=category.dataset_id,
                name=category.name,
                is_thing=category.is_thing,
                score=scores.get((category.id, instance)),
                area=int(areas[number]),
                bbox=(x, y, box_width, box_height),
            )
        )
    return Result(ids[rows[:, np.newaxis], columns], tuple(segments))


def _source_index(source: int, length: int) -> np.ndarray:
    """Nearest source pixel of each of `length` pixels, half-pixel centers: ascending."""
    return (2 * np.arange(length) + 1) * source // (2 * length)


def _extent(is_hit: np.ndarray, source_index: np.ndarray) -> Tuple[int, int]:
    """First pixel and length in the image of what hits some rows or columns of the model."""
    hits = np.flatnonzero(is_hit)
    first = int(np.searchsorted(source_index, hits[0], "left"))
    return first, int(np.searchsorted(source_index, hits[-1], "right")) - first


def _scores(arrays: Mapping[str, np.ndarray]) -> Dict[Tuple[int, int], float]:
    """Scores by (category id, instance id)."""
    if "num_segments" not in arrays:
        return {}
    count = int(arrays["num_segments"])
    names = ("segment_category", "segment_instance", "segment_score")
    rows = zip(*(arrays[name][:count].tolist() for name in names))
    return {(category, instance): score for category, instance, score in rows}


def _parse(content: bytes, path: str) -> Tuple[Tuple[Category, ...], Tuple[int, int], str]:
    """Categories, input size and experiment of a description."""
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES:,} bytes")
        parsed = json.loads(content)
        items: List[Dict[str, Any]] = sorted(parsed["categories"], key=lambda item: item["id"])
        categories = tuple(
            Category(i, item["id"], item["name"], bool(item["isthing"]), tuple(item["color"]))
            for i, item in enumerate(items, start=1)
        )
        model = parsed["model"]
        height, width = model["input_size"]
        part, experiment = model.get("part", WHOLE), model["experiment"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: its {FILE_NAME} is malformed ({error!r}). {_EXPORT_AGAIN}"
        ) from error
    if part != WHOLE:
        raise ValueError(
            f"{path} holds the part {part!r} of a model, not the whole. {_EXPORT_AGAIN}"
        )
    return categories, (height, width), experiment


def _open(content: bytes) -> Image.Image:
    Image.init()
    formats = [each for each in _FORMATS if each in Image.OPEN]
    return Image.open(io.BytesIO(content), formats=formats)


def _delegate(delegate: Any) -> Any:
    if not isinstance(delegate, (str, os.PathLike)):
        return delegate
    try:
        return litert().load_delegate(os.fspath(delegate))
    except (OSError, ValueError) as error:
        raise ValueError(f"the delegate {delegate} cannot be loaded: {error}") from error


def _check_identifier(path: str) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a .tflite file.") from error
    if head[4:] != _IDENTIFIER:
        raise ValueError(f"{path} is not a TFLite file: it starts with {head!r}.")
