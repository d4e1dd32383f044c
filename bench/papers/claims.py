"""What four papers claim, and which figures of ours speak to it."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.papers.figures import (
    Measured,
    block,
    changes,
    joined,
    kernel_scores,
    shares,
    speed,
)
from bench.papers.scheme_figures import compared
from bench.papers.training_figures import apart, trained

__all__ = ["CLAIMS", "Claim", "Paper"]

_BLOCKS = "int8 32x32, int8 + scales out"

ALL = ("encoder", "text", "vision", "table")
LANGUAGE = ("encoder", "text")
MX = ("mxint8", "mxfp8-e4m3", "mxfp6-e2m3", "mxfp4")
FP8 = ("fp8-ptq-e4m3", "fp8-ptq-e3m4", "fp8-ptq-e5m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of a paper."""

    text: str
    place: str  #: in the paper
    measured: Callable[[], Measured] | None  #: out of a record; ``None``: not measured yet
    prediction: str  #: which commands below say what is expected; "-": none does


def _told(*parts: str | Measured) -> Measured:
    """A sentence with figures in it."""
    return Measured(
        text="".join(part if isinstance(part, str) else part.text for part in parts),
        figures=tuple(
            figure for part in parts if isinstance(part, Measured) for figure in part.figures
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A paper and its claims."""

    name: str
    where: str
    claims: tuple[Claim, ...]


CLAIMS = (
    Paper(
        name="Jetfire",
        where="arXiv 2403.12422, ICML 2024",
        claims=(
            Claim(
                text="transformers trained with an INT8 data flow and 32x32 blocks end as accurate "
                "as under FP16",
                place="abstract",
                measured=lambda: trained(
                    "jetfire", "jetfire-64", "jetfire-128", baseline="bf16", criterion=0.005
                ),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="more accurate than earlier INT8 training, whose scales belong to tensors, "
                "tokens or channels",
                place="abstract",
                measured=lambda: apart("jetfire", "int8-tensor", "int8-row"),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="a transformer block trains 1.42 times as fast as under FP16, end to end",
                place="abstract",
                measured=lambda: joined(
                    block("measured_us", "as fast"),
                    _told(
                        "Its products alone, H200, against `torch.matmul` in bf16: ",
                        speed(_BLOCKS, "torch.matmul bf16"),
                        "; against the paper's released kernels: ",
                        speed(_BLOCKS, "Jetfire as released, recorded"),
                        " ([kernels][k])",
                    ),
                ),
                prediction="[block](#a-training-step)",
            ),
            Claim(
                text="a block takes 1.49 times less memory than under FP16",
                place="abstract",
                measured=lambda: block(
                    "peak_above_gradients_bytes", "less above weights and gradients"
                ),
                prediction="[block](#a-training-step), `x bf16 per step`",
            ),
            Claim(
                text="less memory traffic than quantising, multiplying and dequantising around "
                "every operator",
                place="abstract",
                measured=None,
                prediction="[block](#a-training-step), norm, activation, residual and quantize",
            ),
        ),
    ),
    Paper(
        name="FP8-BERT",
        where="arXiv 2312.05725",
        claims=(
            Claim(
                text="FP8 after training loses significantly less than INT8 on GLUE and SQuAD 1.1",
                place="abstract",
                measured=lambda: joined(
                    changes("fp8-bert", "int8-ptq"), kernel_scores("fp8-bert", "int8-ptq")
                ),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="FP8 after training reaches full precision, without retraining",
                place="abstract",
                measured=lambda: shares("fp8-bert", families=LANGUAGE),
                prediction="[error](#error-of-formats)",
            ),
        ),
    ),
    Paper(
        name="Efficient Post-training Quantization with FP8 Formats",
        where="arXiv 2309.14592, MLSys 2024",
        claims=(
            Claim(
                text="92.64 % of the workloads lose at most 1 % under FP8, 65.87 % under INT8",
                place="abstract",
                measured=lambda: shares(*FP8, "int8-ptq", families=ALL),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="language: 96.32 % under E4M3, 92.11 % under E3M4; E4M3 suits it best",
                place="abstract",
                measured=lambda: joined(
                    shares(*FP8[:2], "int8-ptq", families=LANGUAGE),
                    kernel_scores(*FP8, "fp8-ptq-mixed", "int8-ptq"),
                ),
                prediction="[error](#error-of-formats), outliers",
            ),
            Claim(
                text="vision: 78.95 % under E3M4, 73.68 % under E4M3; E3M4 suits it best",
                place="abstract",
                measured=lambda: shares(*FP8[:2], "int8-ptq", families=("vision",)),
                prediction="[error](#error-of-formats), normal",
            ),
            Claim(
                text="E5M2 needs no calibration: a direct cast, for what it covers",
                place="section 3.1, standard scheme",
                measured=lambda: shares("fp8-ptq-e5m2", families=ALL),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="E4M3 activations with E3M4 weights help where one format does not",
                place="section 3.2, extended scheme",
                measured=lambda: shares(
                    "fp8-ptq-mixed", *FP8[:2], families=("text", "vision", "table")
                ),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="FP8 serves more operators than INT8: LayerNorm, BatchNorm, sums and products",
                place="section 3.2, extended scheme",
                measured=lambda: compared(
                    *FP8[:2], "int8-ptq", scheme="extended", beside="standard", families=ALL
                ),
                prediction="-",
            ),
            Claim(
                text="leaving the first and the last operator in high precision helps vision",
                place="summary",
                measured=lambda: compared(
                    *FP8[:2],
                    "int8-ptq",
                    scheme="standard",
                    beside="standard-whole",
                    families=("vision",),
                ),
                prediction="-",
            ),
            Claim(
                text="scales of each call's data help where calibrated ones do not",
                place="summary",
                measured=lambda: compared(
                    *FP8[:2], "int8-ptq", scheme="standard-dynamic", beside="standard", families=ALL
                ),
                prediction="-",
            ),
        ),
    ),
    Paper(
        name="Microscaling Data Formats for Deep Learning",
        where="arXiv 2310.10537; OCP MX v1.0",
        claims=(
            Claim(
                text="MX formats replace FP32 in inference with little friction, on more than two "
                "dozen benchmarks",
                place="abstract",
                measured=lambda: joined(shares(*MX, families=ALL), kernel_scores(*MX)),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="they do so in training too",
                place="abstract",
                measured=lambda: trained(
                    "mxfp8-e4m3", "mxfp6-e3m2", baseline="fp32", criterion=0.01
                ),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="generative language models train with weights, activations and gradients "
                "below 8 bits, with minimal loss and an unchanged recipe",
                place="abstract",
                measured=lambda: trained("mxfp6-e3m2", baseline="fp32", criterion=0.01),
                prediction="[error](#error-of-formats)",
            ),
        ),
    ),
)
