"""Boosted regression trees as plain arrays, evaluated in NumPy."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trees"]

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Trees one after another; a row's answer is ``base`` plus the values of its leaves."""

    base: float
    roots: I32  #: (trees,) number of the node that a tree begins with
    feature: I32  #: (nodes,) column that a node looks at; -1 in a leaf
    threshold: F64  #: (nodes,) a row goes left where its value is at most this
    left: I32  #: (nodes,) number of the next node
    right: I32
    value: F64  #: (nodes,) what a leaf adds
    depth: int  #: of the deepest tree

    @classmethod
    def of_sklearn(cls, model: Any) -> Self:
        """The trees of a fitted ``GradientBoostingRegressor`` that began with a constant."""
        trees = [one.tree_ for one in model.estimators_[:, 0]]
        starts = np.cumsum([0, *(tree.node_count for tree in trees[:-1])]).astype(np.int32)
        return cls(
            base=float(model.init_.constant_[0, 0]),
            roots=starts,
            feature=np.concatenate(
                [np.where(tree.children_left < 0, -1, tree.feature) for tree in trees]
            ).astype(np.int32),
            threshold=np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
            left=np.concatenate(
                [tree.children_left + start for tree, start in zip(trees, starts, strict=True)]
            ).astype(np.int32),
            right=np.concatenate(
                [tree.children_right + start for tree, start in zip(trees, starts, strict=True)]
            ).astype(np.int32),
            value=model.learning_rate
            * np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float64),
            depth=max(tree.max_depth for tree in trees),
        )

    def predict(self, rows: F64) -> F64:
        """(rows,) answers for (rows, features) numbers, those of the trees' training."""
        # Trees are grown on single precision: at a threshold a double could take the other side.
        numbers = rows.astype(np.float32).astype(np.float64)
        node = np.broadcast_to(self.roots, (len(numbers), len(self.roots)))
        place = np.arange(len(numbers))[:, None]
        for _ in range(self.depth):
            column = self.feature[node]
            ahead = np.where(
                numbers[place, np.maximum(column, 0)] <= self.threshold[node],
                self.left[node],
                self.right[node],
            )
            node = np.where(column < 0, node, ahead)
        answers: F64 = self.base + self.value[node].sum(axis=1)
        return answers
