"""A forest as ONNX, run by ONNX Runtime: what answers single connections and small batches.

The trees are written here rather than by a converter. Those that exist leave out which way an undefined
feature goes, and spell out a weight for every class in every leaf, zeros too: of 100 trees with 22 classes
that is five times the size, and half the speed.

Exactness. scikit-learn casts rows to float32, and compares them with thresholds that are float64. A
threshold rounded down to float32 parts float32 values just as it did before. So every row reaches the
leaves that it reaches in scikit-learn, and all that differs is that their fractions are added in float32.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

# Builds of ONNX Runtime since 1.29 report to their maker over the network, from the moment that they are
# imported and as whoever imports them, here root. This has to be said before that, and not later.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx
import onnxruntime
from onnx import helper
from onnxruntime import OrtValue

__all__ = ["OnnxForest"]

Matrix = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

_OPSET = 3  # of ai.onnx.ml, and the next two: the oldest that knows what is needed, so that
_IR, _ONNX_OPSET = 8, 17  # a runtime older than the `onnx` beside it reads it too
_WARNINGS_AND_WORSE = 2


class OnnxForest:
    """The trees of a fitted forest in ONNX Runtime, on one thread.

    Parameters
    ----------
    trees
        The `tree_` of each of the forest's estimators.
    n_classes
        Of the forest; two or more.

    Attributes
    ----------
    error
        A bound on how far a probability can be from scikit-learn's.
    """

    def __init__(self, trees: list[Any], n_classes: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # none is started, and none waits
        options.log_severity_level = _WARNINGS_AND_WORSE
        model = _model(trees, n_classes).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._n_trees = len(trees)
        self._row = np.zeros((1, trees[0].n_features), np.float32)
        self._first_two = np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32)
        self._bound = self._session.io_binding()
        self._bound.bind_ortvalue_input("rows", OrtValue.ortvalue_from_numpy(self._row))
        for name, place in zip(("classes", "highest"), self._first_two, strict=True):
            self._bound.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(place))
        # Each fraction is rounded once, and so is each addition, to a sum of at most the number of trees.
        self.error = (len(trees) + 1) * float(np.finfo(np.float32).eps) / 2

    def probabilities(self, rows: Matrix) -> Probabilities:
        """Of every class, shape (n_rows, n_classes), for rows of shape (n_rows, n_features)."""
        (sums,) = self._session.run(["sums"], {"rows": rows})
        probabilities: Probabilities = sums.astype(np.float64) / self._n_trees
        return probabilities

    def first_two(self, rows: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
        """The two classes that come first, and their probabilities times the number of trees.

        Both of shape (n_rows, 2), the higher first.
        """
        classes, sums = self._session.run(["classes", "highest"], {"rows": rows})
        return classes, sums

    def first_two_of_one(self, row: npt.NDArray[np.float64]) -> tuple[int, float, float]:
        """The class that comes first, and the probabilities of the first two times the number of trees.

        The row, shape (1, n_features), and what comes of it lie in memory that the runtime was shown once:
        to hand it over anew at each call takes a third of the time. Not for two threads at a time.
        """
        self._row[...] = row
        self._session.run_with_iobinding(self._bound)
        classes, sums = self._first_two
        return classes.item(0), sums.item(0), sums.item(1)


def _model(trees: list[Any], n_classes: int) -> onnx.ModelProto:
    """Adds up the fractions of the classes in the leaves that a row reaches, and finds the top two."""
    nodes, leaves = zip(*[(_nodes(i, tree), _leaves(i, tree)) for i, tree in enumerate(trees)], strict=True)
    attributes = {
        name: np.concatenate([part[name] for part in parts]).tolist()
        for parts in (nodes, leaves)
        for name in parts[0]
    }
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["rows"],
        ["sums"],
        domain="ai.onnx.ml",
        n_targets=n_classes,
        aggregate_function="SUM",
        post_transform="NONE",
        **attributes,
    )
    two = helper.make_tensor("two", onnx.TensorProto.INT64, [1], [2])
    top = helper.make_node("TopK", ["sums", "two"], ["highest", "classes"])
    graph = helper.make_graph(
        [ensemble, top],
        "forest",
        [_value("rows", trees[0].n_features)],
        [_value("sums", n_classes), _value("highest", 2), _value("classes", 2, onnx.TensorProto.INT64)],
        [two],
    )
    versions = [helper.make_opsetid("ai.onnx.ml", _OPSET), helper.make_opsetid("", _ONNX_OPSET)]
    return helper.make_model(graph, opset_imports=versions, ir_version=_IR)


def _value(name: str, columns: int, kind: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None, columns])


def _nodes(number: int, tree: Any) -> dict[str, npt.NDArray[Any]]:
    leaf = tree.children_left < 0
    return {
        "nodes_treeids": np.full(tree.node_count, number),
        "nodes_nodeids": np.arange(tree.node_count),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
        "nodes_featureids": np.where(leaf, 0, tree.feature),
        "nodes_values": np.where(leaf, 0, _rounded_down(tree.threshold)),
        "nodes_truenodeids": np.where(leaf, 0, tree.children_left),
        "nodes_falsenodeids": np.where(leaf, 0, tree.children_right),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, tree.missing_go_to_left).astype(np.int64),
    }


def _leaves(number: int, tree: Any) -> dict[str, npt.NDArray[Any]]:
    fractions = tree.value[:, 0, :] * (tree.children_left < 0)[:, None]
    node, target = np.nonzero(fractions)
    return {
        "target_treeids": np.full(len(node), number),
        "target_nodeids": node,
        "target_ids": target,
        "target_weights": fractions[node, target],
    }


def _rounded_down(thresholds: npt.NDArray[np.float64]) -> Matrix:
    """The largest float32 that is not above: no float32 lies between the two."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
