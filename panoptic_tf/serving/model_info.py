"""What an exported model says of itself: categories, input size, experiment.

It is the file `dataset_info.json`, readable by `DatasetInfo.load`, with an entry `model` added.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Optional, Tuple

from panoptic_tf import lite
from panoptic_tf.datasets import dataset_info as dataset_info_lib

FILE_NAME = lite.FILE_NAME
MAX_BYTES = lite.MAX_BYTES


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Description of an exported model.

    Attributes:
      dataset_info: the categories.
      input_size: (height, width) of the network's input.
      experiment: name of the experiment it was trained with.
      target: what its graph is for, a value of `forms.Form`; empty where it does not say.
      precision: what its layers compute in: `float32` or `bfloat16`; empty where it does not say.
      part: of the model: `whole`, or one without post-processing; see `parts`.
      padding_color: RGB, of the frame outside of the image where a part needs one; else empty.
    """

    dataset_info: dataset_info_lib.DatasetInfo
    input_size: Tuple[int, int]
    experiment: str = ""
    target: str = ""
    precision: str = ""
    part: str = lite.WHOLE
    padding_color: Tuple[float, ...] = ()

    def to_bytes(self) -> bytes:
        """JSON text, UTF-8."""
        content = {
            **self.dataset_info.to_json(),
            "model": {
                "input_size": list(self.input_size),
                "experiment": self.experiment,
                "target": self.target,
                "precision": self.precision,
                "part": self.part,
                "padding_color": list(self.padding_color),
            },
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str) -> ModelInfo:
        """Parses what `to_bytes` wrote; `source` is named in errors.

        Raises:
          ValueError: too long, not JSON, or a field is missing or of the wrong kind.
        """
        if len(content) > MAX_BYTES:
            raise ValueError(f"{source}: must be at most {MAX_BYTES:,} bytes, got more.")
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is not JSON ({error}).") from error
        info = dataset_info_lib.DatasetInfo.from_json(parsed, source=source)
        return cls(info, *_parse_model(parsed.get("model"), source))


def _parse_model(model: Any, source: str) -> Tuple[Any, ...]:
    """The attributes of `ModelInfo` behind the first."""
    if not isinstance(model, dict):
        raise ValueError(
            f"{source}: 'model' must be an object, got {model!r}. Export the model again."
        )

    def text(name: str, default: Optional[str]) -> str:
        value = model.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{source}: model.{name} must be a string, got {value!r}.")
        return value

    size = model.get("input_size")
    numbers = size if isinstance(size, list) else []
    if len(numbers) != 2 or not all(type(v) is int and v > 0 for v in numbers):
        raise ValueError(
            f"{source}: model.input_size must be [height, width], two positive integers, "
            f"got {size!r}."
        )
    color = model.get("padding_color", [])
    if not isinstance(color, list) or not all(type(v) in (int, float) for v in color):
        raise ValueError(f"{source}: model.padding_color must be a list of numbers, got {color!r}.")
    texts = [
        text(name, default)
        for name, default in (
            ("experiment", None),
            ("target", ""),
            ("precision", ""),
            ("part", lite.WHOLE),
        )
    ]
    return ((numbers[0], numbers[1]), *texts, tuple(color))
