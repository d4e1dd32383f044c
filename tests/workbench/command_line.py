"""What the command line answers, as the tests of its verbs read it."""

from collections.abc import Callable
from typing import NamedTuple


class Answer(NamedTuple):
    """How a command ended, and all that it wrote."""

    code: int
    out: str
    err: str


#: The fixture ``call``: the words after ``workbench``, its answer.
Call = Callable[..., Answer]


def is_mistake(answer: Answer, *says: str) -> None:
    """A caller's mistake: exit code 2 and one line of bearable length, with these words."""
    assert answer.code == 2, answer
    assert answer.err.startswith("error: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert len(answer.err) < 900, answer.err
    for words in says:
        assert words in answer.err, answer.err
