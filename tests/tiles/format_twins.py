"""The element formats as other libraries have them."""

import gfloat
import ml_dtypes
import numpy as np
import torch
from exact_elements import FLOATS, WIDE_FLOATS

ML_DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3": ml_dtypes.float8_e4m3,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e3m4": ml_dtypes.float8_e3m4,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
    "e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e5m2": torch.float8_e5m2,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2fnuz": torch.float8_e5m2fnuz,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e8m0fnu": torch.float8_e8m0fnu,
}


def gfloat_twin(name: str) -> gfloat.FormatInfo:
    sign, exponent, mantissa, bias, last = (FLOATS | WIDE_FLOATS)[name]
    return gfloat.FormatInfo(
        name,
        sign + exponent + mantissa,
        mantissa + 1,
        bias=bias,
        is_signed=bool(sign),
        domain=gfloat.Domain.Extended if last == "ieee" else gfloat.Domain.Finite,
        has_nz=last != "fnuz" and bool(sign),
        num_high_nans={"ieee": (1 << mantissa) - 1, "fn": 1}.get(last, 0),
        has_subnormals=True,
        is_twos_complement=False,
    )
