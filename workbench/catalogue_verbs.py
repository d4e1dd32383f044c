"""The verbs that list what the workbench knows: ``gpus`` and ``formats``."""

import typer

from workbench.console import Json, print_json, print_tables

__all__ = ["add_catalogue_verbs"]


def add_catalogue_verbs(app: typer.Typer) -> None:
    """Register the verbs of this file."""
    app.command()(gpus)
    app.command()(formats)


def gpus(as_json: Json = False) -> None:
    """List the GPUs that the cost model knows."""
    from sim import gpu_names, load_gpu

    loaded = [load_gpu(name) for name in gpu_names()]
    if as_json:
        print_json({"schema": "tile-workbench/gpus/1", "gpus": [g.name for g in loaded]})
        return
    from workbench.tables import gpu_table

    print_tables(gpu_table(loaded))


def formats(as_json: Json = False) -> None:
    """List elements, scale formats and rules, roundings, and recipes with their sources."""
    if as_json:
        from workbench.format_facts import formats_dict

        print_json(formats_dict())
        return
    from workbench.tables import format_tables

    print_tables(*format_tables())
