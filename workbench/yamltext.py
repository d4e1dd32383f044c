"""YAML from outside, read safely: plain data only, bounded in size, depth and expansion.

PyYAML follows YAML 1.1, which reads ``on`` as true and ``1:30`` as ninety; the loader here keeps to
the core schema of YAML 1.2.2, section 10.3, so that ``measure: {on: gpu}`` means what it says.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from tiles.intake import MAX_YAML_BYTES, read_bounded, shown

__all__ = ["load_yaml"]

MAX_DEPTH = 16
#: Nodes after every alias is written out; a real sweep file has a few hundred.
MAX_NODES = 20_000


class _CoreLoader(yaml.SafeLoader):
    """A safe loader with YAML 1.2's core schema, unique keys and limits."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth >= MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels: flatten it")
        self.depth += 1
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} values: split it over several files")
        if tag := getattr(self.peek_event(), "tag", None):  # type: ignore[no-untyped-call]
            raise _Refused(f"tag {shown(tag)} is not taken: write the plain value")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise _Refused(f"line {line}: key {shown(key.value)} stands twice: remove one")
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Refused(ValueError):
    """Valid YAML that is not taken."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]{1,40}|0x[0-9a-fA-F]{1,40}", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        "-+.0123456789",
    ),
):
    # PyYAML's own converter reads a leading zero as octal, which YAML 1.2 does not.
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 16) if text.startswith("0x") else int(text)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes under ``node`` once every alias is written out; a node inside itself is refused."""
    known = sizes.get(id(node))
    if known == 0:
        raise _Refused("an alias refers to what contains it: write the values out")
    if known is not None:
        return known
    sizes[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    size = 1 + sum(_expanded(child, sizes) for child in children)
    sizes[id(node)] = size
    return size


def load_yaml(path: Path) -> Any:
    """Read one YAML document as plain dicts, lists, strings, numbers, booleans and nulls.

    Raises:
        ValueError: the file cannot be read, is larger than 1 MiB, is not one YAML document, has
            tags, repeated keys, or too many values; the message is one line.
    """
    raw = read_bounded(path, MAX_YAML_BYTES)
    try:
        loader = _CoreLoader(raw.decode("utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                raise _Refused("the file is empty: start from one in examples/")
            if _expanded(node, {}) > MAX_NODES:
                raise _Refused(f"aliases expand to more than {MAX_NODES} values: write them out")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: give a YAML file") from error
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join((error.problem or error.context or "syntax").split())
        raise ValueError(
            f"{path}: {line}not valid YAML ({shown(problem, 120)}): correct it"
        ) from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{path}: not valid YAML ({shown(problem, 120)}): correct it") from error
