"""Reads docstrings for the reference of the API: what is below `Example:` is Python."""

from __future__ import annotations

import re

import griffe


def fence_example(text: str) -> str:
    """Puts the example of a docstring into a fenced block, which Markdown leaves alone."""
    return re.sub(
        r"^Example:\n((?: {4}.*\n?|\n(?= {4}))+)",
        lambda match: f"Example:\n    ```python\n{match[1].rstrip()}\n    ```\n",
        text,
        flags=re.MULTILINE,
    )


class Examples(griffe.Extension):
    """Applies `fence_example` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """See base class."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = fence_example(obj.docstring.value)
