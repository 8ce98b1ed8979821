"""Malformed requests among good ones, through the signatures of the systems' SavedModels.

python benchmarks/fuzz_requests.py --cases=10000 [--systems=...] --output_json=runs/fuzz.json

Each system runs in a process of its own, with the network for the data set of shapes at random
weights. A batch holds damaged images (bits, bytes and pieces changed, headers rewritten, other
formats, bombs, nothing at all) around two good ones. Wanted: the process lives, the good rows are
what they are alone, the rows of unreadable images are zero, and the memory of the last batches is
that of the first. Now and then pixels of odd sizes go to `image_tensor`. What breaks one of these
is printed with its seed. A batch that hangs ends its process, with a traceback of every thread.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import multiprocessing
import os
import random
import struct
import tempfile
import time
import zlib
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from panoptic_tf.datasets import files

_CASES = flags.DEFINE_integer("cases", 10000, "Malformed images for each system.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "Seed of the first batch; they count up.", lower_bound=0)
_SYSTEMS = flags.DEFINE_list(
    "systems", ["panoptic_deeplab", "panoptic_fpn", "panoptic_fcn", "mask_transformer"], "Systems."
)
_BATCH = flags.DEFINE_integer(
    "batch_size", 16, "Images of a request, two good ones among them.", lower_bound=3
)
_SECONDS = flags.DEFINE_float(
    "seconds_per_batch", 60.0, "After which a batch hangs.", lower_bound=1.0
)
_GROWTH = flags.DEFINE_float(
    "growth_mb", 64.0, "More memory than after the first tenth.", lower_bound=0.0
)
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "Counts and violations; optional.")

_MOST_VIOLATIONS = 50  # in the result; a pipe holds them
_MAX_PIXELS = 4_000_000
_ODD_SHAPES = ((0, 8, 8), (1, 1, 1), (2, 1, 300), (1, 300, 1), (1, 7, 5), (3, 129, 127))


def main(argv) -> None:
    """Runs the systems one after the other."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    results = {}
    context = multiprocessing.get_context("spawn")
    for system in _SYSTEMS.value:
        options = _Options(
            system, _CASES.value, _FIRST.value, _BATCH.value, _SECONDS.value, _GROWTH.value
        )
        queue = context.SimpleQueue()
        last_seed = context.Value("q", -1)
        process = context.Process(target=_fuzz, args=(options, queue, last_seed))
        process.start()
        process.join()
        results[system] = {"exit_code": process.exitcode}
        if process.exitcode == 0:
            results[system].update(queue.get())
        else:
            results[system]["died_at_seed"] = last_seed.value
        print(json.dumps({system: results[system]}), flush=True)
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, results)
    is_bad = [r["exit_code"] or r["violations"] for r in results.values()]
    raise SystemExit(bool(any(is_bad)))


class _Options(NamedTuple):
    system: str
    cases: int
    first: int
    batch_size: int
    seconds: float
    growth_mb: float


def _fuzz(options: _Options, queue: Any, last_seed: Any) -> None:
    """The process of one system; its counts go to the queue, the seed of each batch before it."""
    import panoptic_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)  # isort: skip
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        signatures = tf.saved_model.load(_export(options.system, folder)).signatures
        good = [_photo(random.Random(i), (100 + 20 * i, 128)) for i in range(2)]
        alone = {
            name: [_call(signatures[name], [content]) for content in good]
            for name in ("image_bytes", "panoptic_png")
        }
        state: Dict[str, Any] = {"malformed": 0, "refused": 0, "read": 0, "good": 0, "batches": 0}
        violations: List[str] = []
        seconds: List[float] = []
        memory: List[float] = []
        per_batch = options.batch_size - len(good)
        total = -(-options.cases // per_batch)
        for number in tqdm(range(total), unit="batch", desc=options.system):
            last_seed.value = seed = options.first + number
            start = time.monotonic()
            faulthandler.dump_traceback_later(options.seconds, exit=True)
            problems = _try_batch(random.Random(seed), signatures, good, alone, per_batch, state)
            faulthandler.cancel_dump_traceback_later()
            seconds.append(time.monotonic() - start)
            for text in problems:
                violations.append(f"seed {seed}: {text}")
                tqdm.write(violations[-1])
            if number % max(1, total // 50) == 0 or number == total - 1:
                gc.collect()
                memory.append(_resident_mb())
    early = max(memory[: max(1, len(memory) // 10)])
    growth = memory[-1] - early
    if growth > options.growth_mb:
        violations.append(f"memory grew by {growth:.0f} MB")
    queue.put(
        {
            **state,
            "seconds": round(sum(seconds), 1),
            "slowest_batch_seconds": round(max(seconds), 2),
            "rss_mb": {
                "after_first_batch": round(memory[0]),
                "after_a_tenth": round(early),
                "at_the_end": round(memory[-1]),
                "largest": round(max(memory)),
            },
            "violations": violations[:_MOST_VIOLATIONS],
        }
    )


def _export(system: str, folder: str) -> str:
    import common
    import tensorflow as tf
    from official.core import exp_factory, task_factory

    from panoptic_tf.ops import forms
    from panoptic_tf.serving import export
    from panoptic_tf.training import runner

    tf.keras.utils.set_random_seed(0)
    params = exp_factory.get_exp_config(common.experiment_name(system, "shapes"))
    if system == "mask_transformer":  # Drawn weights have no query as sure as the threshold.
        thresholds = {"score_threshold": 0.0, "overlap_threshold": 0.0}
        params.override({"task": {"model": {"postprocessor": thresholds}}})
    task = task_factory.get_task(params.task)
    task.form = forms.Form.CPU
    model = task.build_model()
    for variable in model.inference_network.weights:
        if "bias" in variable.name:  # Those of class logits are so low that nothing is found.
            variable.assign(tf.zeros_like(variable))
    return export.export_saved_model(
        model.inference_network,
        export_dir=folder,
        max_pixels=_MAX_PIXELS,
        warmup_batch_sizes=(),
        **runner.export_arguments(params, task),
    )


def _resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _call(signature: Any, contents: List[bytes]) -> Dict[str, np.ndarray]:
    import tensorflow as tf

    outputs = signature(image_bytes=tf.constant(contents, tf.string))
    return {key: value.numpy() for key, value in outputs.items()}


def _try_batch(
    rng: random.Random,
    signatures: Any,
    good: List[bytes],
    alone: Dict[str, List[Dict[str, np.ndarray]]],
    count: int,
    state: Dict[str, Any],
) -> List[str]:
    """Sends one request; what is wrong with the answer."""
    state["batches"] += 1
    name = "panoptic_png" if rng.random() < 0.25 else "image_bytes"
    contents: List[Tuple[bytes, int]] = [(_malformed(rng), -1) for _ in range(count)]
    for i, content in enumerate(good):
        contents.insert(rng.randrange(len(contents) + 1), (content, i))
    state["malformed"] += count
    state["good"] += len(good)
    try:
        outputs = _call(signatures[name], [content for content, _ in contents])
        if rng.random() < 0.05:
            _call_with_pixels(rng, signatures["image_tensor"])
    except Exception as error:
        return [f"{name}: {type(error).__name__}: {str(error)[:500]}"]
    problems = []
    for row, (_, i) in enumerate(contents):
        answer = {key: value[row] for key, value in outputs.items()}
        if i >= 0:
            problems += [f"{name}: a good row: {t}" for t in _differences(answer, alone[name][i])]
        elif answer.pop("valid"):
            state["read"] += 1
        else:
            state["refused"] += 1
            problems += [
                f"{name}: {key} of an unreadable image"
                for key, value in answer.items()
                if (value != b"" if isinstance(value, bytes) else value.any())
            ]
    return problems


def _differences(answer: Dict[str, np.ndarray], alone: Dict[str, np.ndarray]) -> List[str]:
    """Where a row differs from what it is alone; scores by rounding only."""
    found = []
    for key, value in answer.items():
        expected = alone[key][0]
        if np.asarray(value).dtype.kind == "f":
            is_same = np.allclose(value, expected, atol=1e-4)
        else:
            is_same = np.array_equal(value, expected)
        if not is_same:
            found.append(key)
    return found


def _call_with_pixels(rng: random.Random, signature: Any) -> None:
    """Every shape gets an answer of its batch; oneDNN may refuse a batch of none."""
    import tensorflow as tf

    shape = rng.choice(_ODD_SHAPES)
    pixels = np.full([*shape, 3], rng.randrange(256), np.uint8)
    try:
        outputs = signature(image_tensor=tf.constant(pixels))
    except tf.errors.InvalidArgumentError:
        if shape[0] == 0:
            return
        raise
    sizes = {value.shape[0] for value in outputs.values()}
    if sizes != {shape[0]}:
        raise ValueError(f"image_tensor {shape}: batches of {sizes}")


# Malformed images


def _photo(
    rng: random.Random, size: Tuple[int, int], kind: str = "PNG", mode: str = "RGB"
) -> bytes:
    height, width = size
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _any_photo(rng: random.Random) -> bytes:
    size = (rng.choice((1, 2, 17, 64, 130)), rng.choice((1, 3, 33, 128, 200)))
    kind, mode = rng.choice(
        (
            *(("PNG", mode) for mode in ("RGB", "L", "P", "1", "RGBA", "LA")),
            *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        )
    )
    return _photo(rng, size, kind, mode)


def _flip(rng: random.Random) -> bytes:
    content = bytearray(_any_photo(rng))
    for _ in range(rng.choice((1, 1, 4, 32))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _flip_in_header(rng: random.Random) -> bytes:
    content = bytearray(_any_photo(rng))
    for _ in range(rng.choice((1, 2, 4))):
        content[rng.randrange(min(len(content), 64))] = rng.randrange(256)
    return bytes(content)


def _cut(rng: random.Random) -> bytes:
    content = _any_photo(rng)
    return content[: rng.randrange(len(content))]


def _splice(rng: random.Random) -> bytes:
    """The start of one file, the end of another."""
    first, second = _any_photo(rng), _any_photo(rng)
    return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]


def _repeat(rng: random.Random) -> bytes:
    content = _any_photo(rng)
    start = rng.randrange(len(content))
    piece = content[start : start + rng.randrange(1, 200)]
    return content[:start] + piece * rng.choice((2, 50)) + content[start:]


def _png_header(rng: random.Random) -> bytes:
    """Another size or kind, its checksum right."""
    content = _photo(rng, (9, 11), "PNG", rng.choice(("RGB", "L", "P")))
    sides = (0, 1, 11, 5000, 60_000, 2**31 - 1, 2**32 - 1)
    header = struct.pack(
        ">IIBBBBB",
        rng.choice(sides),
        rng.choice(sides),
        rng.choice((1, 2, 4, 8, 16, 3, 0)),
        rng.choice((0, 2, 3, 4, 6, 1, 255)),
        rng.choice((0, 0, 1)),
        rng.choice((0, 0, 1)),
        rng.choice((0, 1, 1, 2)),
    )
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return content[:16] + header + checksum + content[33:]


def _png_chunk(rng: random.Random) -> bytes:
    """A chunk more, with a right checksum."""
    content = _photo(rng, (9, 11), "PNG", rng.choice(("RGB", "P")))
    kind = rng.choice((b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"gAMA", b"zTXt", b"acTL"))
    data = rng.randbytes(rng.choice((0, 1, 3, 256, 768, 5000)))
    length = rng.choice((len(data), len(data), 2**31 - 1, 2**32 - 1))
    chunk = struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    at = rng.choice((33, len(content) - 12))
    return content[:at] + chunk + content[at:]


def _jpeg_size(rng: random.Random) -> bytes:
    """Another size in the frame header of a JPEG."""
    content = bytearray(_photo(rng, (40, 40), "JPEG", rng.choice(("RGB", "L"))))
    at = max(content.find(b"\xff\xc0"), 0) + 5
    content[at : at + 4] = struct.pack(
        ">HH", rng.choice((0, 1, 41, 2000, 65535)), rng.choice((0, 1, 41, 1999, 65535))
    )
    return bytes(content)


def _jpeg_marker(rng: random.Random) -> bytes:
    content = _photo(rng, (40, 40), "JPEG")
    marker = bytes((0xFF, rng.randrange(0xC0, 0x100)))
    body = rng.randbytes(rng.randrange(0, 70))
    length = rng.choice((len(body) + 2, 0, 1, 65535))
    at = rng.choice((2, content.find(b"\xff\xda"), rng.randrange(len(content))))
    return content[:at] + marker + struct.pack(">H", length) + body + content[at:]


def _other_format(rng: random.Random) -> bytes:
    kind = rng.choice(("GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"))
    return _photo(rng, (rng.choice((1, 30)), 20), kind)


def _noise(rng: random.Random) -> bytes:
    start = rng.choice((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"GIF89a"))
    return start + rng.randbytes(rng.choice((0, 1, 7, 30, 3000)))


def _too_large(rng: random.Random) -> bytes:
    """Some kilobytes that decode to more pixels than the model takes."""
    size = rng.choice(((2100, 2000), (1, 4_000_001), (5000, 3000)))
    buffer = io.BytesIO()
    Image.new("L", (size[1], size[0])).save(buffer, "PNG")
    return buffer.getvalue()


_FAULTS: Tuple[Callable[[random.Random], bytes], ...] = (
    *(_flip, _flip, _flip_in_header, _cut, _cut, _splice, _repeat, _noise, _other_format),
    *(_png_header, _png_header, _png_chunk, _jpeg_size, _jpeg_marker),
)


def _malformed(rng: random.Random) -> bytes:
    if rng.random() < 0.005:
        return _too_large(rng)
    return rng.choice(_FAULTS)(rng)


if __name__ == "__main__":
    app.run(main)
