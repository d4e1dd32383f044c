"""Post-training quantisation of torch models; importing this loads torch."""

from workbench.ptq.matmul import MatMul
from workbench.ptq.quantize import quantize
from workbench.ptq.quantized import Kept, OperatorRecord, Quantized
from workbench.ptq.scheme import EXTENDED, STANDARD, Calibration, Kind, Rule, Scheme
from workbench.ptq.search import Scores, Trial
from workbench.ptq.storage import load
from workbench.ptq.task import Task, load_task
from workbench.ptq.task_run import quantize_task
from workbench.ptq.weight_file import QuantizedWeights, quantize_weights, read_weights

__all__ = [
    "EXTENDED",
    "STANDARD",
    "Calibration",
    "Kept",
    "Kind",
    "MatMul",
    "OperatorRecord",
    "Quantized",
    "QuantizedWeights",
    "Rule",
    "Scheme",
    "Scores",
    "Task",
    "Trial",
    "load",
    "load_task",
    "quantize",
    "quantize_task",
    "quantize_weights",
    "read_weights",
]
