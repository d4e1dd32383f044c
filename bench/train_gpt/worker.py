"""The process of one run: ``python -m bench.train_gpt.worker FOLDER RECIPE SEED``.

It trains from the folder's settings and text, leaves ``results/RUN.json`` whatever the outcome, and
``checkpoints/RUN.pt`` where it could not finish.  What breaks it stands in its log.
"""

import argparse
import gc
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.train_gpt.folder import RunFolder
from bench.train_gpt.outcome import Outcome, Run, Status, write_outcome

__all__ = ["main"]


def main(given: Sequence[str] | None = None) -> int:
    """Train one run."""
    parser = argparse.ArgumentParser(prog="bench.train_gpt.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--until", type=float, default=math.inf, help="in time.time()'s seconds")
    arguments = parser.parse_args(given)
    import torch

    from bench.train_gpt.training import train
    from tuning.environment import read_environment

    torch.set_num_threads(1)
    gc.freeze()  # what was imported stays: no collection looks at it again
    folder = RunFolder(arguments.folder)
    run = Run(recipe=arguments.recipe, seed=arguments.seed)
    mark = folder.mark(run)
    told = False

    def begun() -> None:
        nonlocal told
        if not told:
            mark.touch()
        told = True

    try:
        settings, (train_text, held_out) = folder.settings(), folder.text()
        found = train(
            run,
            settings,
            train_text,
            held_out,
            device=arguments.device,
            checkpoint=folder.checkpoint(run),
            until=arguments.until,
            begun=begun,
        )
    except ValueError as error:
        found = Outcome(
            recipe=run.recipe, seed=run.seed, status=Status.REFUSED, reason=str(error)[:500]
        )
    environment = read_environment(arguments.device).to_dict()
    write_outcome(folder.result(run), replace(found, environment=environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
