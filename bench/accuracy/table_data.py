"""Tables that scikit-learn carries, columns standardised by the rows that training sees."""

from functools import cache
from typing import Any

import torch

from bench.accuracy.corpus import origin
from bench.accuracy.training import Split, split_rows

__all__ = ["table"]


@cache
def table(name: str) -> Split:
    """A data set of scikit-learn's; half of its rows are judged.

    Args:
        name: "iris", "wine", "breast_cancer" or "diabetes", whose values are standardised too.
    """
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")()
    rows = torch.tensor(found.data, dtype=torch.float32)
    values = name == "diabetes"
    target = torch.tensor(found.target, dtype=torch.float32 if values else torch.int64)
    if values:
        target = target.unsqueeze(1)
    split = split_rows((rows,), target, f"{origin('sklearn')}: {name}")
    kept = split.inputs[0]
    mean, spread = kept.mean(0), kept.std(0)
    answers = (split.target, split.test_target)
    if values:
        center, width = split.target.mean(0), split.target.std(0)
        answers = ((split.target - center) / width, (split.test_target - center) / width)
    return Split(
        inputs=((kept - mean) / spread,),
        target=answers[0],
        test_inputs=((split.test_inputs[0] - mean) / spread,),
        test_target=answers[1],
        source=split.source,
    )
