"""The list of a split's shards, with counts and checksums; its presence says that all are there.

Until then, `<split>.progress.jsonl` names the shards that are done, for the run that resumes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Optional

from panoptic_tf.datasets import files

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file.

    Attributes:
      name: file name.
      num_records: entries in it.
      sha256: checksum of the whole file.
    """

    name: str
    num_records: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `<split>.manifest.json` says.

    Attributes:
      split: name of the split.
      fingerprint: what the shards were made from and how; shards of equal fingerprints are equal.
      source: the source files, for people.
      shards: all shards, in order.
    """

    split: str
    fingerprint: Mapping[str, Any]
    source: Mapping[str, Any]
    shards: List[Shard]

    def save(self, output_dir: str) -> str:
        """Writes the manifest and returns its path."""
        path = manifest_path(output_dir, self.split)
        content = dataclasses.asdict(self)
        content["num_records"] = sum(s.num_records for s in self.shards)
        files.write_json(path, content)
        return path

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Reads a manifest.

        Raises:
          ValueError: not a manifest; the message names file and field.
        """
        content = files.read_json(path, expected="a manifest written by `convert`")
        try:
            shards = [
                Shard(s["name"], int(s["num_records"]), s["sha256"]) for s in content["shards"]
            ]
            return cls(content["split"], content["fingerprint"], content["source"], shards)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected a manifest written by `convert`; missing or malformed: {error}."
            ) from error


class Progress:
    """The shards of an unfinished split that are done, one JSON line each after the fingerprint's.

    Args:
      output_dir: folder of the split.
      split: name of the split.
    """

    def __init__(self, output_dir: str, split: str):
        self.path = os.path.join(output_dir, f"{split}.progress.jsonl")

    def start(self, fingerprint: Mapping[str, Any], shards: List[Shard]) -> None:
        """Begins the file anew with the shards that are known to be good."""
        lines = [json.dumps({"fingerprint": fingerprint})]
        lines += [json.dumps(dataclasses.asdict(shard)) for shard in shards]
        files.write_bytes(self.path, "".join(line + "\n" for line in lines).encode())

    def add(self, shard: Shard) -> None:
        """Appends a finished shard."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(shard)) + "\n")

    def load(self, fingerprint: Mapping[str, Any]) -> Optional[List[Shard]]:
        """The finished shards, or None if there is no progress of this fingerprint.

        A line that a killed run left unfinished is ignored.
        """
        lines = []
        try:
            with open(self.path, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except (OSError, ValueError):
            pass
        if not lines or lines[0] != {"fingerprint": dict(fingerprint)}:
            return None
        return [Shard(**line) for line in lines[1:]]

    def remove(self) -> None:
        """Removes the file, if there is one."""
        if os.path.exists(self.path):
            os.unlink(self.path)


def manifest_path(output_dir: str, split: str) -> str:
    """Path of a split's manifest."""
    return os.path.join(output_dir, f"{split}.manifest.json")


def shard_name(split: str, index: int, num_shards: int) -> str:
    """File name of a shard."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def sha256_of_file(path: str) -> str:
    """Checksum of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def good_shards(output_dir: str, shards: List[Shard]) -> Dict[str, Shard]:
    """Those shards whose files are there with the checksum they should have, by name."""
    return {s.name: s for s in shards if shard_problem(output_dir, s) is None}


def shard_problem(output_dir: str, shard: Shard) -> Optional[str]:
    """What is wrong with a shard's file as a whole, or None."""
    path = os.path.join(output_dir, shard.name)
    if not os.path.exists(path):
        return f"{path}: the manifest lists this shard, the file is missing."
    found = sha256_of_file(path)
    if found != shard.sha256:
        return f"{path}: sha256 is {found}, the manifest says {shard.sha256}."
    return None
