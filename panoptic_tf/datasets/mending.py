"""Mends annotations: corrects faults with a unique correction in a copy, and lists each change.

A change is safe where two independent things agree on it (the size of a photograph and of its id
PNG), where it adds nothing that was not said (an identical copy goes), or where the value is
measured from what it describes (areas, boxes). All else stays as it is, for `doctor` to report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set

from panoptic_tf.datasets import files

CHANGES_FILE = "changes.json"
"""The list of changes, beside the annotations."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that was mended.

    Attributes:
      where: field of the JSON file, or name of the PNG. Positions are those in the copy; of what
        was removed, those before.
      before: what was there, as plain values; None where nothing was.
      after: what is there now; None where it was removed.
      reason: why that is safe.
    """

    where: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        before, after = files.shown(self.before, most=120), files.shown(self.after, most=120)
        return f"{self.where}: {before} -> {after} ({self.reason})"


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Gives a temporary folder that becomes `path` when the block ends without an error.

    Raises:
      ValueError: `path` is a file, or a folder that holds something.
      OSError: it cannot be created.
    """
    path = os.path.realpath(path)  # No folder can take the name of a link.
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise ValueError(
            f"fix_to must name a folder that is empty or does not exist, got {path}, which holds "
            "something."
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = tempfile.mkdtemp(
        dir=os.path.dirname(path), prefix=f".{os.path.basename(path)[:60]}"
    )
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_names(source: str, *others: str) -> None:
    """Checks that what is written beside each other has names of its own.

    Args:
      source: the JSON file, whose copy has its name.
      others: what else is written, but for the list of changes.

    Raises:
      ValueError: two would have one name.
    """
    names = [os.path.basename(source), CHANGES_FILE, *others]
    if len(set(names)) < len(names):
        raise ValueError(
            f"{source}: its name must end in .json and not be {CHANGES_FILE}: the copy would have "
            f"two things of one name ({', '.join(names)}). Rename the file."
        )


def write(folder: str, name: str, content: Any, changes: Sequence[Change]) -> None:
    """Writes a mended JSON file and the list of its changes.

    Args:
      folder: to write to.
      name: of the JSON file.
      content: of it.
      changes: what was mended.
    """
    # Numbers that are none, where nothing reads them, stay as they came.
    files.write_bytes(os.path.join(folder, name), json.dumps(content).encode())
    files.write_json(
        os.path.join(folder, CHANGES_FILE),
        [_without_nan(dataclasses.asdict(change)) for change in changes],
    )


def drop_copies(items: Sequence[Any], where: str, id_key: str, changes: List[Change]) -> List[Any]:
    """Leaves out entries that equal an earlier one in all fields, their id among them.

    Args:
      items: entries of a list of a JSON file, of any kind.
      where: name of the list.
      id_key: name of their id.
      changes: takes what is left out.

    Returns:
      The others.
    """
    seen: Set[str] = set()
    kept = []
    for position, item in enumerate(items):
        text = _text(item) if isinstance(item, dict) and item.get(id_key) is not None else None
        if text is not None and text in seen:
            own_id = {id_key: item[id_key]}
            reason = "it equals an earlier entry in every field"
            changes.append(Change(f"{where}[{position}]", own_id, None, reason))
            continue
        if text is not None:
            seen.add(text)
        kept.append(item)
    return kept


def set_size(
    image: Dict[str, Any], where: str, height: int, width: int, reason: str, changes: List[Change]
) -> None:
    """Sets height and width of an entry of `images` that has others or none."""
    before = {key: image.get(key) for key in ("height", "width")}
    after = {"height": height, "width": width}
    if before != after:
        image.update(after)
        changes.append(Change(where, before, after, reason))


def _text(item: Any) -> Optional[str]:
    """The same for equal values; None of what is nested too deeply."""
    try:
        return json.dumps(item, sort_keys=True)
    except (RecursionError, ValueError):
        return None


def _without_nan(value: Any) -> Any:
    """Values that JSON has, all others as text."""
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (RecursionError, ValueError):
        if isinstance(value, dict):
            return {key: _without_nan(entry) for key, entry in value.items()}
        return files.shown(value)
