"""What of a model a file holds: the whole, or the network without its post-processing.

A network alone has static shapes, no loops, and operators that delegates take. `network` returns
what the post-processor reads, `semantic` the semantic logits alone. Their input is the image
[B, H, W, 3], RGB 0..255, padded with the mean colour, which normalisation makes zero: so nothing in
the graph depends on the image's size.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from panoptic_tf import lite
from panoptic_tf.inputs import normalize
from panoptic_tf.ops import forms
from panoptic_tf.serving.export import build_answer
from panoptic_tf.serving.quantization import Inputs, ReadInputs
from panoptic_tf.structures import Tensors

PARTS = WHOLE, NETWORK, SEMANTIC = lite.WHOLE, "network", "semantic"

_POSTPROCESSOR = "postprocessor"
_LOGITS = "semantic_logits"


class Part(NamedTuple):
    """What is converted.

    Attributes:
      network: whose weights it has.
      answer: from the inputs, in their order, to the outputs by name.
      inputs: `image`, of the whole model `image_info` too.
      padding_color: RGB, of the frame outside of the image where it is not zero; else empty.
    """

    network: tf.keras.Model
    answer: Callable[..., Tensors]
    inputs: Tuple[str, ...]
    padding_color: Tuple[float, ...] = ()

    def signature(self, batch: Optional[int], input_size: Sequence[int]) -> List[tf.TensorSpec]:
        """What `answer` takes, float32."""
        shapes = {"image": [batch, *input_size, 3], "image_info": [batch, 4, 2]}
        return [tf.TensorSpec(shapes[name], tf.float32, name=name) for name in self.inputs]


def take_part(
    inference_network: tf.keras.Model,
    part: str,
    *,
    num_categories: int,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    form: forms.Form,
) -> Part:
    """The part of a model, from images as they come.

    Args:
      inference_network: of a system.
      part: of `PARTS`.
      num_categories: see `cut_network`.
      mean, std, channel_order: see `normalize.normalize_image`.
      form: of the operations.

    Raises:
      ValueError: there is no such part.
    """
    check_part(part)
    if part == WHOLE:
        whole = build_answer(inference_network, mean, std, channel_order, form)
        return Part(inference_network, whole, ("image", "image_info"))
    network = cut_network(inference_network, part, num_categories=num_categories)
    answer = part_function(network, mean, std, channel_order, form)
    return Part(network, answer, ("image",), padding_color(mean, channel_order))


def check_part(part: str) -> None:
    """Raises a ValueError where there is no such part."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}.")


def cut_network(
    inference_network: tf.keras.Model, part: str, *, num_categories: int
) -> tf.keras.Model:
    """The layers between the normalised image and the post-processor.

    Args:
      inference_network: of a system.
      part: `network` or `semantic`.
      num_categories: that many channels the semantic logits must have.

    Returns:
      A network that takes {`image`: [B, H, W, 3]} and returns by name what the post-processor
      reads, all of static size but for B.

    Raises:
      ValueError: the network is no one piece, or has no such logits.
    """
    node = inference_network.get_layer(_POSTPROCESSOR).inbound_nodes[-1]
    outputs = dict(node.call_args[0])
    if part == SEMANTIC:
        channels = outputs[_LOGITS].shape[-1] if _LOGITS in outputs else 0
        if channels != num_categories:
            raise ValueError(
                f"--part={SEMANTIC} needs semantic logits of {num_categories} channels, one for "
                f"each category; this network has {channels}."
            )
        outputs = {_LOGITS: outputs[_LOGITS]}
    image = inference_network.input["image"]
    try:
        return tf.keras.Model({"image": image}, outputs, name="network")
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"--part={part}: this network selects regions or kernels between its layers, which "
            "depends on the image's size, so it cannot be exported without post-processing. "
            "Panoptic-DeepLab can, and so can a semantic branch with a class for every category."
        ) from error


def part_function(
    network: tf.keras.Model,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str,
    form: forms.Form,
) -> Callable[[tf.Tensor], Tensors]:
    """The function to convert: `image` float32 [B, H, W, 3] -> the outputs of `cut_network`."""

    def answer(image):
        if channel_order == "BGR":  # a product, since delegates do not read backwards
            image = tf.nn.conv2d(image, tf.eye(3)[tf.newaxis, tf.newaxis, ::-1], 1, "VALID")
        scale = tf.constant([1.0 / value for value in std], tf.float32)
        normalized = (image - tf.constant(tuple(mean), tf.float32)) * scale
        with forms.use(form):
            return network({"image": normalized}, training=False)

    return answer


def padding_color(mean: Sequence[float], channel_order: str) -> Tuple[float, ...]:
    """The colour, RGB, that normalisation makes zero."""
    return tuple(mean[::-1] if channel_order == "BGR" else mean)


def with_padding(read_inputs: ReadInputs, color: Sequence[float]) -> ReadInputs:
    """The images of another function, with a colour outside of them."""

    def inputs() -> Iterator[Inputs]:
        for values in read_inputs():
            image = values["image"]
            inside = normalize.valid_mask(values["image_info"], *image.shape[1:3]).numpy() > 0
            yield {**values, "image": np.where(inside, image, np.asarray(color, np.float32))}

    return inputs
