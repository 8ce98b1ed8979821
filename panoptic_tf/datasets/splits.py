"""Splits of a data set by the hash of an image's id: stable, whatever else the data set holds."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

Shares = Sequence[Tuple[str, float]]


def parse(text: str) -> Shares:
    """`train:0.8,val:0.2` to names and shares; a name alone has all.

    Raises:
      ValueError: not of this form, a name comes twice, or the shares do not sum to 1.
    """
    if ":" not in text:
        return [(text, 1.0)]
    shares = []
    for part in text.split(","):
        name, _, value = part.strip().partition(":")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not re.fullmatch(r"\w+", name) or not 0 < share < 1:
            raise ValueError(f"split must be like train:0.8,val:0.2, got {text!r}.")
        shares.append((name, share))
    if len({name for name, _ in shares}) < len(shares):
        raise ValueError(f"split names one part twice: {text!r}.")
    total = sum(share for _, share in shares)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares of split {text!r} must sum to 1, got {total:g}.")
    return shares


def assign(images: Sequence[Any], shares: Shares, group: Optional[str] = None) -> Dict[str, List]:
    """Deals the images out.

    Args:
      images: with `image_id` and `file_name`.
      shares: names of the parts and their shares of all images.
      group: regular expression whose first group, found in `file_name`, names what must not be
        divided: a scene, a patient.

    Returns:
      The images of each part, in their order.

    Raises:
      ValueError: `group` is no regular expression with a group, is not found in a name, or a part
        gets no image.
    """
    pattern = _compile(group)
    parts: Dict[str, List[Any]] = {name: [] for name, _ in shares}
    for image in images:
        position, low = _position(_key(image, pattern)), 0.0
        for name, share in shares:
            low += share
            if position < low or name == shares[-1][0]:
                parts[name].append(image)
                break
    empty = [name for name, found in parts.items() if not found]
    if empty:
        raise ValueError(
            f"split: of {len(images)} images none falls to {empty[0]!r}. Give it a larger share."
        )
    return parts


def _compile(group: Optional[str]) -> Optional[re.Pattern]:
    if group is None:
        return None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"split_group {group!r} is no regular expression: {error}.") from error
    if not pattern.groups:
        raise ValueError(f"split_group {group!r} has no group in parentheses.")
    return pattern


def _key(image: Any, pattern: Optional[re.Pattern]) -> str:
    if pattern is None:
        return json.dumps(image.image_id)
    found = pattern.search(image.file_name)
    if found is None or found[1] is None:
        raise ValueError(f"split_group {pattern.pattern!r} is not found in {image.file_name!r}.")
    return found[1]


def _position(key: str) -> float:
    """0..1."""
    digest = hashlib.sha256(f"split {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
