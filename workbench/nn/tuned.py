"""What sweeps found fastest, for the layers' kernels."""

from pathlib import Path

from workbench.nn.choices import FAMILIES, Choice, known_by
from workbench.shared import load_study

__all__ = ["tuned_choices"]


def tuned_choices(study: str | Path, storage: str | None = None) -> dict[str, Choice]:
    """The fastest measured configuration of every problem of a sweep that the layers meet.

    Of the families that the layers launch; problems of others, and those without a correct
    measurement yet, are left to the cost model.

    Args:
        study: a run folder or, with a storage, the name of a sweep.
        storage: URL of a shared storage.
    Returns:
        By the text of the problem as :class:`Choices` takes it.
    Raises:
        ValueError: no such sweep, nothing of it was measured, or none of it is launched here.
    """
    run = load_study(study, storage)
    found: dict[str, tuple[float, Choice]] = {}
    for one in run.studies:
        best = one.best
        if best is None or one.simulated or one.kernel not in FAMILIES.get(one.problem.kind, ()):
            continue
        time_us = best.measurement.time_us
        assert time_us is not None  # of a correct trial
        text = str(known_by(one.problem))
        choice = Choice(family=one.kernel, config=best.config)
        found[text] = min(found.get(text, (time_us, choice)), (time_us, choice), key=lambda t: t[0])
    if not found:
        launched = ", ".join(dict.fromkeys(name for names in FAMILIES.values() for name in names))
        raise ValueError(
            f"{study}: no study of it has a measured configuration of {launched}: sweep the "
            "layers' problems with them on a GPU"
        )
    return {text: choice for text, (_, choice) in found.items()}
