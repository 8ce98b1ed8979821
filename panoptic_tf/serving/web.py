"""A static page that runs a .tflite file in the browser, with LiteRT.js.

The page's own files are in `web_page/`. The runtime is the npm package `@litertjs/core`, whose
files are copied from where npm has put them; this package holds none of them.
"""

from __future__ import annotations

import os
from importlib import resources
from typing import Any, Dict, List, Optional

from panoptic_tf.datasets import dataset_info as dataset_info_lib
from panoptic_tf.datasets import files
from panoptic_tf.serving import decoding, tflite
from panoptic_tf.serving.model_info import ModelInfo
from panoptic_tf.structures import Prediction
from panoptic_tf.visualization import overlay

PAGE_FILES = ("index.html", "style.css", "page.js", "panoptic.js", "worker.js")
RUNTIME = "@litertjs/core"
INSTALL = f"npm install {RUNTIME}@2"

_PAGE_FOLDER = "web_page"
_INSTANCE_COLORS = 16
"""Colours of the instances of a category; the next ones start again."""

# With relaxed SIMD, and for browsers without it; both run in one thread.
_WASM = ("litert_wasm_internal", "litert_wasm_compat_internal")
_IMPORT = b'from "@litertjs/wasm-utils"'
_IMPORT_BESIDE = b'from "./wasm-utils.js"'
_CHANGED = b"// Changed for this folder: wasm-utils is imported from the file beside it.\n"


def export_web(tflite_path: str, output_dir: str, *, runtime_dir: str) -> str:
    """Writes the folder of the page, for any server of static files.

    Files of the same names are replaced, each whole; others in the folder stay.

    Args:
      tflite_path: written by `tflite.export_tflite`, of any quantization.
      output_dir: the folder.
      runtime_dir: `node_modules/@litertjs`, where npm has put `@litertjs/core`.

    Returns:
      `output_dir`.

    Raises:
      ValueError: no such model, it has no mask of categories, or the runtime is not there.
      OSError: the folder cannot be written.
    """
    _check_outputs(tflite_path)
    info = tflite.read_model_info(tflite_path)
    if os.path.lexists(output_dir) and not os.path.isdir(output_dir):
        raise ValueError(f"{output_dir} is not a folder; expected the name of one.")
    runtime = _read_runtime(runtime_dir)
    written = {f"runtime/{name}": content for name, content in runtime.items()}
    written["model.tflite"] = files.read_bytes(tflite_path, expected="a .tflite file")
    page = resources.files(__package__).joinpath(_PAGE_FOLDER)
    # The page itself comes last, when all that it needs is there.
    written.update({name: page.joinpath(name).read_bytes() for name in reversed(PAGE_FILES)})
    version = _runtime_version(runtime_dir)
    files.write_json(os.path.join(output_dir, "model.json"), _describe(info, version))
    for name, content in written.items():
        files.write_bytes(os.path.join(output_dir, name), content)
    return output_dir


def _check_outputs(tflite_path: str) -> None:
    """Refuses what the page cannot show: a model that only detects."""
    outputs = tflite.TFLiteRunner(tflite_path).output_names
    if not {Prediction.CATEGORY_MASK, Prediction.SEMANTIC_MASK} & set(outputs):
        raise ValueError(
            f"{tflite_path}: the page shows {Prediction.CATEGORY_MASK} or "
            f"{Prediction.SEMANTIC_MASK}, this model has {', '.join(sorted(outputs))}."
        )


def _describe(info: ModelInfo, version: str) -> Dict[str, Any]:
    """What the page reads of a model, `model.json`."""
    return {
        "input_size": list(info.input_size),
        "max_pixels": decoding.MAX_PIXELS,
        "experiment": info.experiment,
        "dataset": info.dataset_info.name,
        "runtime": f"{RUNTIME} {version}",
        "categories": [
            {"name": category.name, "is_thing": category.is_thing, "colors": _colors(category)}
            for category in info.dataset_info.categories
        ],
    }


def _colors(category: dataset_info_lib.Category) -> List[List[int]]:
    count = _INSTANCE_COLORS if category.is_thing else 1
    return [list(overlay.instance_color(category.color, rank)) for rank in range(count)]


def _read_runtime(runtime_dir: str) -> Dict[str, bytes]:
    """The files of LiteRT.js that the page needs, by the name they get.

    A worker has no import map, so the runtime finds its second package by the name of a file.
    """
    module = _read(runtime_dir, "core/dist/index.js")
    if module.count(_IMPORT) != 1:
        raise ValueError(
            f"{runtime_dir}/core/dist/index.js does not import @litertjs/wasm-utils as version 2 "
            f"of {RUNTIME} does; `{INSTALL}` installs that."
        )
    runtime = {
        "litert.js": _CHANGED + module.replace(_IMPORT, _IMPORT_BESIDE),
        "wasm-utils.js": _read(runtime_dir, "wasm-utils/dist/index.js"),
    }
    for name in (f"{stem}.{ending}" for stem in _WASM for ending in ("js", "wasm")):
        runtime[name] = _read(runtime_dir, f"core/wasm/{name}")
    return runtime


def _runtime_version(runtime_dir: str) -> str:
    path = os.path.join(runtime_dir, "core", "package.json")
    content = files.read_json(path, expected=_expected())
    version: Optional[Any] = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str):
        raise ValueError(f"{path}: 'version' must be a string, got {files.shown(version)}.")
    return version


def _read(runtime_dir: str, name: str) -> bytes:
    return files.read_bytes(os.path.join(runtime_dir, name), expected=_expected())


def _expected() -> str:
    return f"a file of {RUNTIME}. `{INSTALL}` puts it into node_modules/@litertjs"
