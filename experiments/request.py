"""Predicts images on a server: TensorFlow Serving, or what speaks its protocols.

panoptic-tf request --address=grpc://localhost:8500 --dataset_info=dataset_info.json \
    --input='photos/*.jpg' --output_dir=runs/predictions

writes what `panoptic-tf predict` writes. --address is grpc://host:port, or http(s)://host:port of
the REST API. Calls that may succeed later are tried again: no connection, a full queue, a deadline.
Images that cannot be read, and those whose request failed, are named at the end, and the exit code
is 1.
"""

from __future__ import annotations

import sys
from typing import Sequence

from absl import app, flags

from panoptic_tf.experiments import cli, limits, outputs
from panoptic_tf.serving import writers
from panoptic_tf.serving.writers import overlays

_ADDRESS = flags.DEFINE_string(
    "address", None, "grpc://host:port, http://host:port or https://host:port.", required=True
)
_DATASET_INFO = flags.DEFINE_string(
    "dataset_info",
    None,
    "The model's categories, which a server does not provide: assets/dataset_info.json of the "
    "SavedModel, or the name of a data set.",
    required=True,
)
_INPUT = flags.DEFINE_multi_string(
    "input",
    None,
    "A photograph, a folder of such, a folder with /** behind for those of folders in it, or a "
    "pattern; may be repeated.",
    required=True,
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
_MODEL = flags.DEFINE_string("model", "panoptic", "Name that the server has for the model.")
_VERSION = flags.DEFINE_integer(
    "version", None, "Of the model; default the server's choice: the newest.", lower_bound=0
)
_SIGNATURE = flags.DEFINE_enum(
    "signature",
    "image_bytes",
    ["image_bytes", "panoptic_png", "serving_default"],
    "Of the model; panoptic_png has the smallest response, and is the one for REST.",
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 60.0, "Seconds of one attempt.", lower_bound=0.001, upper_bound=86_400.0
)
_MAX_ATTEMPTS = flags.DEFINE_integer(
    "max_attempts", 6, "Of a request; pauses grow from 0.2 to 10 seconds.", lower_bound=1
)
_CONCURRENCY = flags.DEFINE_integer(
    "concurrency", 8, "Requests at a time; the server makes batches of them.", lower_bound=1
)
_CONNECTIONS = flags.DEFINE_integer(
    "connections", 4, "Connections that are kept; calls over gRPC share them.", lower_bound=1
)
_WRITE = flags.DEFINE_list(
    "write", list(writers.DEFAULT), f"What is written: {', '.join(writers.FORMATS)}."
)
_OVERLAY_FORMAT = flags.DEFINE_enum(
    "overlay_format", overlays.JPEG, list(overlays.PICTURES), "Of the overlays."
)
_SCORE_THRESHOLD = flags.DEFINE_float(
    "score_threshold",
    None,
    "Things of a lower score are left out: their pixels become void.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_EXIF = flags.DEFINE_enum(
    "exif",
    "apply",
    ["apply", "ignore"],
    "What is done with an EXIF orientation: apply turns the picture before it is sent.",
)
_MAX_PIXELS = limits.define_max_pixels("larger ones are not sent")


def main(argv: Sequence[str]) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected arguments: {argv[1:]}. Quote the pattern: --input='photos/*.jpg'."
        )
    from panoptic_tf.serving import client as client_lib
    from panoptic_tf.serving import prediction

    writers.check_formats(_WRITE.value)
    paths = prediction.find_images(_INPUT.value)
    client = client_lib.Client(
        _ADDRESS.value,
        dataset_info=_DATASET_INFO.value,
        model=_MODEL.value,
        version=_VERSION.value,
        signature=_SIGNATURE.value,
        timeout=_TIMEOUT.value,
        retry=client_lib.RetryPolicy(max_attempts=_MAX_ATTEMPTS.value),
        connections=_CONNECTIONS.value,
        max_pixels=_MAX_PIXELS.value,
        exif=_EXIF.value,
        score_threshold=_SCORE_THRESHOLD.value,
    )
    outputs.make_output_dir(_OUTPUT_DIR.value)
    with client:
        failures = client_lib.request_files(
            client,
            paths,
            _OUTPUT_DIR.value,
            concurrency=_CONCURRENCY.value,
            image_dir=prediction.common_folder(_INPUT.value),
            formats=_WRITE.value,
            overlay_format=_OVERLAY_FORMAT.value,
        )
    for message in failures:
        print(" ".join(message.splitlines()), file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(paths)} images have no result.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run_script(__file__, main)
