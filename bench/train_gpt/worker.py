"""The process of one run: ``python -m bench.train_gpt.worker FOLDER RECIPE SEED``.

It trains from the folder's settings and text, leaves ``results/RUN.json`` whatever the outcome, and
``checkpoints/RUN.pt`` where it could not finish.  What breaks it stands in its log.
"""

import argparse
import gc
import math
import sys
import time
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

    from bench.train_gpt.training import Progress, train
    from tuning.environment import read_environment

    torch.set_num_threads(1)
    folder = RunFolder(arguments.folder)
    run = Run(recipe=arguments.recipe, seed=arguments.seed)
    environment = read_environment(arguments.device).to_dict()
    begin = time.monotonic()

    def stepped(at: Progress) -> None:
        folder.mark(run).touch()
        if at.train_curve and at.train_curve[-1][0] == at.step:
            loss, passed = at.train_curve[-1][1], time.monotonic() - begin
            print(f"{run}: step {at.step}, loss {loss:.4f}, {passed:.0f} s", flush=True)

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
            stepped=stepped,
        )
    except ValueError as error:
        found = Outcome(
            recipe=run.recipe, seed=run.seed, status=Status.REFUSED, reason=str(error)[:500]
        )
    write_outcome(folder.result(run), replace(found, environment=environment))
    if found.status.final:
        folder.checkpoint(run).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    import bench.train_gpt.training  # noqa: F401  # with all that it imports

    gc.freeze()  # which stays: no collection looks at it again
    sys.exit(main())
