"""hotcoco, a scorer in Rust, on the images of `panoptic_quality.py`.

python benchmarks/panoptic_quality.py --reference_command='other/bin/python \\
    benchmarks/references/hotcoco_quality.py --workload={workload} --threads={threads} \\
    --repetitions={repetitions}'

`other` is an environment with hotcoco; measured with 1.3.0. It has one way in, files.
"""

from __future__ import annotations

import os
from typing import Any, Dict

import measuring
import numpy as np

_SPLITS = {"": "All", "_things": "Things", "_stuff": "Stuff"}


def main() -> None:
    """Measures, prints JSON."""
    arguments = measuring.parse_arguments(__doc__)
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    from hotcoco import panoptic

    folder = str(np.load(arguments.workload)["folder"])
    paths = [os.path.join(folder, name) for name in ("truth.json", "found.json")]

    def score() -> Dict[str, Any]:
        evaluation = panoptic.PanopticEval(*paths)
        evaluation.evaluate()
        return evaluation.results()

    seconds = {"files": measuring.seconds_of(score, arguments.repetitions, arguments.threads)}
    found = score()
    measuring.print_result(
        seconds,
        {
            name + suffix: round(100 * found[split][name.lower()], 8)
            for suffix, split in _SPLITS.items()
            for name in ("PQ", "SQ", "RQ")
        },
    )


if __name__ == "__main__":
    main()
