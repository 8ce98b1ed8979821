"""Measures images per second and latencies of an exported or a served model.

panoptic-tf benchmark --saved_model_dir=runs/demo/saved_model --input=photos --batch_sizes=1,8 \\
    --threads=1,2 --output_json=runs/benchmark.json

prints a table: a line for each combination, each measured in a process of its own. "through" is
what is timed: Predictor (bytes in, PanopticResult out, the images of a request one after the
other), signature (of a SavedModel: bytes in, arrays out, a request at once, as a server does),
network (--decoded) or client (of an address). Latencies are of a request; the first one is
apart. CPU ms is the time of all threads for one image, MB the most memory that the process had,
TensorFlow included.
"""

from __future__ import annotations

import sys
from typing import Any, Dict, List, Sequence

from absl import app, flags

from panoptic_tf.experiments import cli, common, limits, outputs

_MODELS = ("saved_model_dir", "tflite_path", "onnx_path", "address")

flags.DEFINE_string("saved_model_dir", None, "The model, or its versions.")
flags.DEFINE_string("tflite_path", None, "The model as a .tflite file.")
flags.DEFINE_string("onnx_path", None, "The model as an .onnx file.")
flags.DEFINE_string("address", None, "Of a served model; see `panoptic-tf request`.")
_DATASET_INFO = flags.DEFINE_string(
    "dataset_info", None, "Of an address: the model's categories; see `panoptic-tf request`."
)
_MODEL = flags.DEFINE_string("model", "panoptic", "Of an address: the model's name there.")
_SIGNATURE = flags.DEFINE_enum(
    "signature",
    "image_bytes",
    ["image_bytes", "panoptic_png", "serving_default"],
    "Of an address: the model's signature.",
)
_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "A photograph, a folder, or a pattern, as `predict` takes; may be repeated. Of more than 64 "
    "the first are taken.",
)
_INPUT_IMAGE_SIZE = flags.DEFINE_list(
    "input_image_size",
    None,
    "height,width of drawn images in place of given ones: blurred noise, in which models find "
    "other segments than in photographs.",
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1"], "Images of a request.")
_THREADS = flags.DEFINE_list(
    "threads",
    [],
    "Threads of an operation, and operations at once; default is the runtime's choice.",
)
_CONCURRENCY = flags.DEFINE_list(
    "concurrency", ["1"], "Of an address: requests at once, of which its server makes batches."
)
_DECODED = flags.DEFINE_bool(
    "decoded", False, "Measure the network alone too: pixels of its own size in, arrays out."
)
_NUM_REQUESTS = flags.DEFINE_integer(
    "num_requests", 100, "Requests of each combination.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "seconds", 20.0, "No request is begun later than this.", lower_bound=0.0
)
_NUM_WARMUP_REQUESTS = flags.DEFINE_integer(
    "num_warmup_requests",
    3,
    "Requests between the first one and those that are measured.",
    lower_bound=0,
)
_OUTPUT_JSON = flags.DEFINE_string("output_json", None, "File for all that was measured.")
_MAX_PIXELS = limits.define_max_pixels("larger ones are refused")
flags.mark_flags_as_mutual_exclusive(_MODELS, required=True)
flags.mark_flags_as_mutual_exclusive(["input", "input_image_size"], required=True)


def main(argv: Sequence[str]) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}. Quote the pattern of --input.")
    batch_sizes = _numbers("batch_sizes", _BATCH_SIZES.value)
    threads = _numbers("threads", _THREADS.value)
    concurrency = _numbers("concurrency", _CONCURRENCY.value)
    for flag in (_DATASET_INFO, _MODEL, _SIGNATURE):
        if flag.present and not flags.FLAGS.address:
            raise app.UsageError(f"--{flag.name} is read with --address only.")
    if _OUTPUT_JSON.value:
        outputs.check_can_write("output_json", _OUTPUT_JSON.value)
    from panoptic_tf.datasets import files
    from panoptic_tf.serving.throughput import measuring, table

    model = next(filter(None, (flags.FLAGS[name].value for name in _MODELS)))
    cases = measuring.list_cases(
        model,
        batch_sizes=batch_sizes,
        threads=threads or [None],
        concurrency=concurrency,
        decoded=_DECODED.value,
    )
    plan = measuring.Plan(
        model,
        _images(),
        num_requests=_NUM_REQUESTS.value,
        seconds=_SECONDS.value,
        num_warmup_requests=_NUM_WARMUP_REQUESTS.value,
        max_pixels=_MAX_PIXELS.value,
        client_options=_client_options() if flags.FLAGS.address else {},
    )
    report = measuring.run(plan, cases)
    if _OUTPUT_JSON.value:
        files.write_json(_OUTPUT_JSON.value, report)
    print(table.format_report(report))
    if any("error" in row for row in report["rows"]):
        sys.exit(1)


def _images():
    from panoptic_tf.serving import prediction
    from panoptic_tf.serving.throughput import inputs

    if not _INPUT.value:
        return inputs.Images(size=common.parse_size(_INPUT_IMAGE_SIZE.value))
    paths = prediction.find_images(_INPUT.value)
    return inputs.given(paths, max_pixels=_MAX_PIXELS.value)


def _client_options() -> Dict[str, Any]:
    from panoptic_tf.serving.client import RetryPolicy

    if not _DATASET_INFO.value:
        raise app.UsageError("--address needs --dataset_info, the model's categories.")
    return {
        "dataset_info": _DATASET_INFO.value,
        "model": _MODEL.value,
        "signature": _SIGNATURE.value,
        "retry": RetryPolicy(max_attempts=1),  # A second attempt would hide in the latency.
    }


def _numbers(name: str, values: Sequence[str]) -> List[int]:
    if not all(value.strip().isdecimal() and int(value) for value in values):
        raise app.UsageError(f"--{name} must be whole numbers above 0, got {','.join(values)!r}.")
    return list(dict.fromkeys(map(int, values)))


if __name__ == "__main__":
    cli.run_script(__file__, main)
