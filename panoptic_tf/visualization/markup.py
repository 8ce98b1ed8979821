"""Pieces of an HTML page that holds its style and its pictures; all text from data is escaped."""

from __future__ import annotations

import base64
import html
import string
from importlib import resources
from typing import Any, Iterable, Tuple, Union

import numpy as np

from panoptic_tf.visualization import images

Color = Tuple[int, int, int]
Picture = Union[bytes, np.ndarray]


def text(value: Any) -> str:
    """A value as text."""
    return html.escape(str(value), quote=True)


def read(name: str) -> str:
    """A file of this package: a page or a style."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def page(title: str, *, subtitle: str, tiles: str, body: str, styles: Iterable[str]) -> str:
    """A whole page, which asks nothing of the network and runs no script.

    Args:
      title: text.
      subtitle: text; may be empty.
      tiles: markup, shown side by side.
      body: markup of all below.
      styles: files of this package.
    """
    return string.Template(read("page.html")).substitute(
        title=text(title),
        style="\n".join(map(read, styles)),
        subtitle=f'<p class="muted">{text(subtitle)}</p>' if subtitle else "",
        tiles=tiles,
        body=body,
    )


def table(head: Iterable[str], rows: Iterable[str], groups: str = "") -> str:
    """A table of rows of markup under column names; `groups`: markup of a row above these."""
    groups = f'<tr class="spans">{groups}</tr>' if groups else ""
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    return (
        f'<div class="card scroll"><table><thead>{groups}<tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def bar(share: float) -> str:
    """A bar of 0..1 of its place."""
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * min(max(share, 0.0), 1.0):.2f}" height="10"/></svg>'
    )


def swatch(color: Color) -> str:
    """A square of a colour."""
    red, green, blue = (int(channel) for channel in color)
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'


def image(picture: Picture, description: str) -> str:
    """A picture: PNG or JPEG, or uint8 [H, W, 3].

    Raises:
      ValueError: none of these.
    """
    if isinstance(picture, np.ndarray):
        images.check_image(picture)
        picture = images.encode_jpeg(picture)
    if picture[:8] == b"\x89PNG\r\n\x1a\n":
        kind = "png"
    elif picture[:3] == b"\xff\xd8\xff":
        kind = "jpeg"
    else:
        raise ValueError(f"{description}: the picture must be PNG or JPEG, got {picture[:8]!r}.")
    data = base64.b64encode(picture).decode("ascii")
    return f'<img loading="lazy" alt="{text(description)}" src="data:image/{kind};base64,{data}">'
