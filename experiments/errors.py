"""What is wrong, in a few lines: an error without what TensorFlow, Keras and gin add to it."""

from __future__ import annotations

import re
import sys
from typing import Tuple, Type

from panoptic_tf.datasets import files

_MAX_LINES = 4
_MAX_CHARACTERS = 1000

# Keras lists a layer's tensors behind the reason; what encloses a layer comes after it again.
_ARGUMENTS = re.compile(r"\s*Call arguments received by.*", re.DOTALL)
_FRAMES = re.compile(r"in user code:|Exception encountered when calling ")
_LAYER = re.compile(r"Exception encountered when calling layer [^\n]*?\(type \w+\)\.\s")
_GIN = re.compile(r"\n *In call to configurable [^\n]*")
_VARIABLE = re.compile(
    r"<tf\.Variable '([^']*)' shape=(\([^)]*\)) dtype=\w+, numpy=.*?>(?=[\s,\])])", re.DOTALL
)
_NAMED_ERROR = re.compile(r"(?:^|\s)[\w.]*(?:Error|Exception): ")
_ROOT_ERROR = re.compile(r"\(0\) (?:\w+: )?(.*?)\n *\(1\) ", re.DOTALL)
_OF_FILE = re.compile(r"^(\S+); ")
_NODE = re.compile(r"^Node: '[^\n]*\n", re.MULTILINE)
_GRAPH_NOTES = re.compile(
    r"\{\{function_node [^}]*\}\}|\[\[\{\{node .*?\}\}\]\]|\[Op:\w+\](?: name:[^\n]*)?"
    r"|Error in user-defined function passed to \S+ transformation with iterator: [\w:]+: "
    r"|^Hint: If you want to see[^\n]*|^Original stack trace for.*"
    r"|^\d+ successful operations\.|^\d+ derived errors ignored\.",
    re.MULTILINE | re.DOTALL,
)


def of_input() -> Tuple[Type[BaseException], ...]:
    """Types of the errors that wrong input and a full or failing machine make."""
    types = (ValueError, OSError, FloatingPointError, MemoryError)
    tensorflow = sys.modules.get("tensorflow")
    return types if tensorflow is None else (*types, tensorflow.errors.OpError)


def describe(error: BaseException) -> str:
    """The reason of an error, in at most four lines."""
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    elif hasattr(error, "op") and hasattr(error, "message"):  # of TensorFlow
        text = _OF_FILE.sub(r"\1: ", _of_graph(str(error.message)))
    elif isinstance(error, MemoryError):
        text = f"out of memory. {error}"
    else:
        text = str(error)
    text = _VARIABLE.sub(r"\1 \2", _GIN.sub("", text))
    return _short(_of_layers(text)) or type(error).__name__


def _of_layers(text: str) -> str:
    """The reason alone of what a layer raised, whether AutoGraph has rewritten its code or not."""
    start = _FRAMES.search(text)
    if start is None:
        return text
    ours, text = text[: start.start()], _ARGUMENTS.sub("", text[start.start() :])
    text = _LAYER.split(text)[-1]
    if _FRAMES.search(text):
        text = _NAMED_ERROR.split(text)[-1]
    return " ".join(f"{ours} {text}".split())


def _of_graph(text: str) -> str:
    """The reason alone of what an operation of a graph raised."""
    root = _ROOT_ERROR.search(text)
    text = _NODE.split(root.group(1) if root else text)[-1]
    text = _GRAPH_NOTES.sub("", text)
    if "(most recent call last)" in text:
        text = text.rstrip().rsplit("\n", 1)[-1]
    return " ".join(text.split())


def _short(text: str) -> str:
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"... and {len(lines) - _MAX_LINES + 1} lines more."]
    return files.shorten("\n".join(lines), most=_MAX_CHARACTERS)
