"""The texts around a Hugging Face kernel's module: build.toml, flake.nix, CARD.md, __init__.py."""

import json
from collections.abc import Sequence
from typing import Any

from workbench.emission.patching import patches
from workbench.emission.project import entry_row, left_table, searched_for
from workbench.emission.selection import Selection

__all__ = [
    "BENCHMARKED",
    "CAPABILITIES",
    "VERSION",
    "build_toml",
    "card_text",
    "flake_text",
    "init_text",
]

#: Of the public interface: a Hub kernel has major versions alone.
VERSION = 1
#: The templates are compiled for these in tests; a loader takes one for later minor versions too.
CAPABILITIES = ("8.0", "9.0", "10.0", "12.0")
#: Functions with workloads for ``kernels benchmark``, which fails where there are none.
BENCHMARKED = frozenset({"gemm", "quantize"})


def build_toml(name: str, repo_id: str | None) -> str:
    """``build.toml`` of edition 5; unknown keys are refused there."""
    lines = [
        "[general]",
        f"name = {json.dumps(name)}",
        f"version = {VERSION}",
        "edition = 5",
        'license = "Apache-2.0"',
        'backends = ["cuda"]',
        "",
    ]
    if repo_id is not None:
        lines += ["[general.hub]", f"repo-id = {json.dumps(repo_id)}", ""]
    lines += [
        "[torch-noarch]",
        'pyext = ["json", "py"]',
        f"cuda_capabilities = {json.dumps(list(CAPABILITIES))}",
    ]
    return "\n".join(lines) + "\n"


def flake_text(name: str) -> str:
    """``flake.nix``, by which the library's builder is run."""
    return f"""{{
  description = "{name}, emitted by the tile workbench";

  inputs.kernel-builder.url = "github:huggingface/kernels";

  outputs =
    {{ self, kernel-builder }}:
    kernel-builder.lib.genKernelFlakeOutputs {{
      inherit self;
      path = ./.;
    }};
}}
"""


def init_text(functions: Sequence[str]) -> str:
    """``__init__.py``: the public functions, whose names are the versioned interface."""
    names = json.dumps([*functions, "tuning"])
    imports = [f"from ._{name} import {name}" for name in functions]
    return "\n".join(
        [
            '"""Tuned low-precision GPU kernels, emitted by the tile workbench."""',
            "",
            "# First of all: it tells the lookup of configurations where they are.",
            "from . import tuning",
            *imports,
            "",
            f"__all__ = {names}",
            "",
        ]
    )


def card_text(
    repo_id: str | None,
    chosen: Selection,
    functions: Sequence[str],
    evidence: dict[str, Any],
    *,
    timed: bool,
) -> str:
    """``CARD.md``; the builder fills in what stands in double braces.

    Args:
        repo_id: ``OWNER/NAME``, or ``None`` to leave it to the builder.
        chosen: what ships, and what does not.
        functions: public ones.
        evidence: without digests.
        timed: there are workloads for ``kernels benchmark``.
    """
    repo = repo_id or "{{ repo_id }}"
    lines = [
        "---",
        "library_name: kernels",
        "license: apache-2.0",
        "---",
        "",
        "Tuned low-precision GPU kernels, emitted by the tile workbench.",
        f"Evidence: {evidence['statement']}.",
        "`EVIDENCE.json` has samples, environment and accuracy of each entry, and the SHA-256 of",
        "every file.",
        "",
        "```python",
        "from kernels import get_kernel",
        "",
        f'kernel = get_kernel("{repo}", version={VERSION})  # trust_remote_code=True, if need be',
        *_examples(chosen),
        "```",
        "",
        "The functions work under `torch.compile(fullgraph=True)` and in CUDA graphs.",
        "They are for inference: no operator has a derivative. `out=` writes into tensors that the",
        "caller owns.",
        "",
        f"Available functions: {', '.join(f'`{name}`' for name in functions)}.",
        "",
        *_no_patch(chosen),
        "Needs torch 2.11 and Triton 3.6 or later, and so Python 3.10: they have no builds for",
        "Python 3.9, whose syntax the files keep to. `kernels` below 0.17 was not tried.",
        "",
        "## Tuned entries",
        "",
        "| kernel | problem | GPU | path | predicted, us | measured, us | configuration |",
        "|---|---|---|---|---|---|---|",
        *(entry_row(entry) for entry in chosen.entries),
        "",
        *searched_for(chosen.entries),
        "A call takes the entry with its N and K (or columns) whose M (or rows) is nearest in log",
        "space. Other extents run a conservative default, never measured, with one warning; so",
        "does every call on another GPU.",
        "",
        *(f"- {one}" for one in chosen.rows),
        *([""] if chosen.rows else []),
        *left_table(evidence["not_emitted"]),
        "    python -m pytest tests   # a GPU, or TRITON_INTERPRET=1 on a CPU",
        *(["    kernels benchmark .      # a GPU"] if timed else []),
    ]
    return "\n".join(lines) + "\n"


def _no_patch(chosen: Selection) -> list[str]:
    """That a model is patched by the other kind of package."""
    if not patches(chosen.entries):
        return []
    return [
        "There is no `patch` for whole models here: the same sweep emitted as a wheel, which is",
        "what `workbench emit` writes without `--target`, has one.",
        "",
    ]


def _examples(chosen: Selection) -> list[str]:
    """Calls of the functions as attributes of a loaded kernel."""
    lines: list[str] = []
    for function in dict.fromkeys(entry.function for entry in chosen.entries):
        own = [entry for entry in chosen.entries if entry.function is function]
        for line in function.example("kernel", own):
            if line.startswith("from kernel import "):
                continue
            lines.append(line.replace(f"{function.name}(", f"kernel.{function.name}(", 1))
    return lines
