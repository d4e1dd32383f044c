"""Each paper's measured figures in one file: what, value, record, places in it, its commands."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.papers.claims import CLAIMS, Claim, Paper
from bench.papers.figures import ROOT, Figure, record
from bench.papers.page import TAIL
from workbench.outfile import check_outfile, write_outfile

__all__ = ["FILES", "SCHEMA", "gathered", "text_of", "write"]

SCHEMA = "tile-workbench/paper-evidence/1"
FOLDER = ROOT / "evidence" / "h200"
#: Files and the papers that each gathers.
FILES = {
    "jetfire": ("Jetfire",),
    "ptq": ("FP8-BERT", "Efficient Post-training Quantization with FP8 Formats"),
    "mx": ("Microscaling Data Formats for Deep Learning",),
}


def gathered(name: str) -> dict[str, Any]:
    """What a file holds, JSON-ready.

    Raises:
        ValueError: no file of that name.
    """
    if name not in FILES:
        raise ValueError(f"--evidence {name}: choose among {', '.join(FILES)}")
    papers = [paper for paper in CLAIMS if paper.name in FILES[name]]
    found = [_paper(paper) for paper in papers]
    sources = dict.fromkeys(
        figure["source"]
        for paper in found
        for claim in paper["claims"]
        for figure in claim["measured"]
    )
    return {
        "schema": SCHEMA,
        "command": f"python -m bench.papers --evidence {name}",
        "papers": found,
        "sources": {path: _source(path) for path in sources},
    }


def _paper(paper: Paper) -> dict[str, Any]:
    return {
        "paper": paper.name,
        "where": paper.where,
        "claims": [_claim(one) for one in paper.claims],
    }


def _claim(one: Claim) -> dict[str, Any]:
    figures = () if one.measured is None else one.measured().figures
    return {
        "claim": one.text,
        "place": one.place,
        "measured": [_figure(figure) for figure in figures],
        "predicted_by": _predictions(one.prediction),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    told = asdict(figure) | {"at": list(figure.at)}
    return {name: value for name, value in told.items() if value is not None}


def _predictions(text: str) -> list[str]:
    """Commands that predict, from the page's sections that a claim names."""
    found = []
    for anchor in re.findall(r"\(#([\w-]+)\)", text):
        title = anchor.replace("-", " ").capitalize()
        section = TAIL.split(f"### {title}\n")[1].split("\n### ")[0]
        found += re.findall(r"^\$ (.*)$", section, re.M)
    return found


def _source(path: str) -> dict[str, Any]:
    """Who measured a record: its runs' commands, code, GPU and versions."""
    runs = []
    for session in record(path)["sessions"]:
        environment = session.get("environment") or {}
        run = {
            "command": session["command"],
            "commit": session.get("commit", ""),
            "gpu": environment.get("gpu") or session.get("device", ""),
            "versions": environment.get("versions") or session.get("versions", {}),
        }
        runs.append(run)
    if not any(run["versions"] for run in runs):  # of a record whose runs tell them one by one
        environments = [one.get("environment") or {} for one in record(path)["runs"]]
        found = next(one for one in environments if one)
        runs = [run | {"gpu": found["gpu"], "versions": found["versions"]} for run in runs]
    return {"runs": runs}


def text_of(name: str) -> str:
    """The file's text."""
    return json.dumps(gathered(name), indent=1, allow_nan=False) + "\n"


def write(name: str, path: Path | None = None) -> Path:
    """Write a file.

    Args:
        path: default: its place in ``evidence/h200``.
    Raises:
        ValueError: no file of that name, or it cannot be written.
    """
    text = text_of(name)
    path = FOLDER / f"{name}.json" if path is None else path
    check_outfile(path, SCHEMA)
    write_outfile(path, text)
    return path
