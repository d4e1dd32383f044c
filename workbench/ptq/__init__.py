"""Post-training quantisation of torch models; importing this loads torch."""

from workbench.ptq.matmul import MatMul
from workbench.ptq.quantize import quantize
from workbench.ptq.quantized import Kept, OperatorRecord, Quantized
from workbench.ptq.scheme import EXTENDED, STANDARD, Calibration, Kind, Rule, Scheme
from workbench.ptq.search import Scores, Trial
from workbench.ptq.storage import load
from workbench.ptq.task import Task, load_task

__all__ = [
    "EXTENDED",
    "STANDARD",
    "Calibration",
    "Kept",
    "Kind",
    "MatMul",
    "OperatorRecord",
    "Quantized",
    "Rule",
    "Scheme",
    "Scores",
    "Task",
    "Trial",
    "load",
    "load_task",
    "quantize",
]
