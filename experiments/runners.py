"""The flags that say who does the work: this machine, or the workers of an Apache Beam runner."""

from __future__ import annotations

from typing import List, Optional

from absl import app, flags

_LOCAL, _BEAM = "local", "beam"


def define_flags() -> None:
    """Defines --runner and --beam_options."""
    flags.DEFINE_enum(
        "runner",
        _LOCAL,
        [_LOCAL, _BEAM],
        "What runs the work: this machine, or the workers of Apache Beam, an extra: "
        "pip install 'panoptic-tf[beam]'.",
    )
    flags.DEFINE_list(
        "beam_options",
        [],
        "Of --runner=beam: Beam's own options, such as runner=FlinkRunner,flink_master=host:8081; "
        "default: in this process.",
    )


def beam_options() -> Optional[List[str]]:
    """Beam's options, or None where this machine works.

    Raises:
      app.UsageError: options without --runner=beam.
    """
    if flags.FLAGS.runner == _BEAM:
        return flags.FLAGS.beam_options
    if flags.FLAGS.beam_options:
        raise app.UsageError("--beam_options are read with --runner=beam only.")
    return None
