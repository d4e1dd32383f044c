"""``workbench predict --network``: its options checked, its tables printed."""

from collections.abc import Mapping
from pathlib import Path

import workbench
from workbench.console import print_json, print_tables

__all__ = ["predict_network_verb"]


def predict_network_verb(
    *,
    gpu: str,
    model: Path | None,
    batch: int | None,
    sequence: int | None,
    training: bool,
    network: bool,
    recipes: list[str] | None,
    calibration: Path | str | None,
    of_products: Mapping[str, bool],
    as_json: bool,
) -> None:
    """Predict a network and print it.

    Args:
        of_products: options that single products take, and whether they were given.
    Raises:
        ValueError: options that do not go together, or nothing could be predicted.
    """
    if not (network or training):
        raise ValueError("--batch and --sequence belong to a network: add --network or --training")
    for option, given in of_products.items():
        if given:
            raise ValueError(
                f"{option} belongs to single products: drop it, or --network and --training"
            )
    if model is None:
        raise ValueError("--network takes a model: add --model config.json")
    if sequence is None:
        raise ValueError(f"{model}: no length of a sequence given: add --sequence S")
    report = workbench.predict_network(
        gpu=gpu,
        model=model,
        batch=1 if batch is None else batch,
        sequence=sequence,
        training=training,
        recipes=recipes,
        calibration=calibration,
    )
    if as_json:
        print_json(report.to_dict())
    elif report.rows:
        from workbench.network_tables import network_tables

        print_tables(*network_tables(report))
        for line in report.calibration:
            print(line)
        if recipes is not None:
            for refused in report.refused:
                print(f"not predicted: {refused.recipe}: {refused.reason}")
        elif report.refused:
            names = ", ".join(refused.recipe for refused in report.refused)
            print(f"not predicted (--recipe NAME says why): {names}")
    if not report.rows:
        first, *others = report.refused
        more = f" (and {len(others)} more refused; --json lists them)" if others else ""
        raise ValueError(f"nothing was predicted: {first.recipe}: {first.reason}{more}")
