"""Writes choices as a YAML file for people: one line for each, with its reason."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Union

import yaml

from panoptic_tf.training.recipe import Choice

_WIDTH = 100
_Tree = Dict[str, Union[Choice, "_Tree"]]


def format_choices(choices: Sequence[Choice]) -> str:
    """YAML of choices, nested by the parts of their keys, in their order.

    Raises:
      ValueError: a key comes twice, or is also the beginning of another.
    """
    tree: Any = {}
    for choice in choices:
        *parents, last = choice.key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if isinstance(node, Choice):
                raise ValueError(f"{choice.key}: {node.key} has a value already.")
        if last in node:
            raise ValueError(f"{choice.key} comes twice.")
        node[last] = choice
    return "".join(line + "\n" for line in _lines(tree, depth=0))


def _lines(tree: Any, *, depth: int) -> List[str]:
    lines = []
    indent = "  " * depth
    for key, node in tree.items():
        if not isinstance(node, Choice):
            lines += [f"{indent}{key}:", *_lines(node, depth=depth + 1)]
            continue
        line = f"{indent}{key}: {_format_value(node.value)}"
        if len(line) + len(node.why) + 4 > _WIDTH:
            lines += [f"{indent}# {node.why}", line] if node.why else [line]
        else:
            lines.append(f"{line}  # {node.why}" if node.why else line)
    return lines


def _format_value(value: Any) -> str:
    """A value in one line, as PyYAML reads it again."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.replace("\n...\n", "").strip()
