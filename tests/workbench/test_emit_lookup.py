"""The rule by which an emitted package chooses a configuration."""

import json
import math
import warnings
from fractions import Fraction

import pytest

from workbench.emission.package_files import _lookup
from workbench.emission.package_files._lookup import choose_from, nearest, parse_config_file

FORMATS = ("e4m3-row", "bf16")


def _file(
    keys: list[int],
    *,
    gpu: str | None = "h200",
    extents: list[int] | None = None,
    **changes: object,
) -> _lookup.ConfigFile:
    data = {
        "schema": "tile-workbench/configs/1",
        "kernel": "triton_gemm",
        "template": "triton.gemm_scaled",
        "gpu": gpu,
        "devices": [] if gpu is None else [f"NVIDIA {gpu.upper()}"],
        "formats": list(FORMATS),
        "extents": extents,
        "layout": {"a_block": [1, 0]},
        "entries": [{"m": m, "config": {"block_m": m}} for m in keys],
    }
    return parse_config_file(json.dumps(data | changes))


@pytest.fixture(autouse=True)
def _nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lookup, "_warned", set())


@pytest.mark.parametrize("keys", [[1], [16, 512], [1, 2, 4, 8, 16], [7, 48, 49, 1000], [3, 12]])
def test_nearest_in_log_space_at_every_m(keys: list[int]) -> None:
    for m in range(1, 4 * keys[-1] + 2):
        # Exact: |log(m / key)| is ordered as max(m, key) / min(m, key); the smaller key wins a tie.
        expected = min(keys, key=lambda key: (Fraction(max(m, key), min(m, key)), key))
        assert nearest(m, keys) == expected, m


def test_distances_of_several_extents_are_added_up() -> None:
    keys = [(1, 4096, 512), (64, 1, 2048), (64, 2048, 2048)]
    for batch in (1, 7, 64, 500):
        for rows in (1, 40, 4096):
            for length in (1, 1024, 9000):
                asked = (batch, rows, length)
                ratios = [
                    math.prod(Fraction(max(p), min(p)) for p in zip(asked, key, strict=True))
                    for key in keys
                ]
                assert nearest(asked, keys) == keys[ratios.index(min(ratios))], asked
    assert nearest((2, 2), [(1, 2), (2, 1), (2, 4)]) == (1, 2)  # a tie


def test_entries_of_several_extents_are_read_and_chosen() -> None:
    points = [{"m": list(m), "config": {"block_m": m[0]}} for m in ((8, 1), (8, 512), (64, 1))]
    files = (_file([1], extents=[64], entries=points), _file([1], entries=points[:1]))
    choice = choose_from(files, "triton_gemm", FORMATS, (64,), (70, 2), "NVIDIA H200")
    assert (choice.m, choice.config) == ((64, 1), {"block_m": 64})


def test_tie_goes_to_the_smaller_key() -> None:
    assert nearest(6, [3, 12]) == 3
    assert nearest(7, [3, 12]) == 12


def test_tuned_extents_take_the_nearest_entry_without_a_warning() -> None:
    files = (_file([64]), _file([16, 512], extents=[4096, 1024]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice = choose_from(files, "triton_gemm", FORMATS, (4096, 1024), 90, "NVIDIA H200")
    assert (choice.m, choice.tuned, choice.config) == (16, True, {"block_m": 16})
    assert choice.file.layout["a_block"] == (1, 0)


def test_unseen_extents_take_the_default_with_one_warning() -> None:
    files = (_file([16, 256]), _file([16], extents=[4096, 1024]))
    with pytest.warns(RuntimeWarning, match=r"never tuned for extents \(4096, 1000\)"):
        choice = choose_from(files, "triton_gemm", FORMATS, (4096, 1000), 300, "NVIDIA H200")
    assert (choice.m, choice.tuned) == (256, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_from(files, "triton_gemm", FORMATS, (4096, 1000), 17, "NVIDIA H200")
    with pytest.warns(RuntimeWarning, match=r"never tuned for extents \(4096, 999\): running"):
        choose_from(files, "triton_gemm", FORMATS, (4096, 999), 17, "NVIDIA H200")


def test_a_warning_that_was_an_error_is_given_again() -> None:
    call = ((_file([16]),), "triton_gemm", FORMATS, (64, 64), 8, "NVIDIA H200")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(RuntimeWarning, match="never tuned"):
                choose_from(*call)


def test_a_warning_points_at_the_caller_of_the_package() -> None:
    # A module of the package, and torch's dispatcher, stand between caller and choice.
    scope: dict[str, object] = {"__name__": f"{_lookup.__package__}._gemm", "choose": choose_from}
    exec("def launch(*call):\n    return choose(*call)\n", scope)
    through = {"__name__": "torch._ops", "launch": scope["launch"]}
    exec("def dispatch(*call):\n    return launch(*call)\n", through)
    call = ((_file([16]),), "triton_gemm", FORMATS, (64, 64), 8, "NVIDIA H200")
    with pytest.warns(RuntimeWarning, match="never tuned") as caught:
        through["dispatch"](*call)  # type: ignore[operator]
    assert caught[0].filename == __file__


def test_files_of_the_gpu_at_hand_are_preferred() -> None:
    files = (
        _file([8], extents=[64, 64], gpu="a100"),
        _file([8]),
        _file([9], extents=[64, 64]),
    )
    choice = choose_from(files, "triton_gemm", FORMATS, (64, 64), 8, "NVIDIA H200")
    assert choice.m == 9


def test_an_unseen_gpu_takes_the_default_of_any_gpu_with_one_warning() -> None:
    files = (_file([8]), _file([9], extents=[64, 64]), _file([16, 256], gpu=None))
    for name in ("NVIDIA L40S", "NVIDIA A100-SXM4-80GB", "NVIDIA H20"):
        with pytest.warns(RuntimeWarning, match=f"{name} is not a GPU this package was") as caught:
            choice = choose_from(files, "triton_gemm", FORMATS, (64, 64), 300, name)
        assert len(caught) == 1
        assert (choice.m, choice.tuned, choice.file.gpu) == (256, False, None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            choose_from(files, "triton_gemm", FORMATS, (77, 64), 8, name)


def test_the_default_of_any_gpu_stays_away_from_the_tuned_one_and_the_interpreter() -> None:
    files = (_file([16], gpu=None), _file([9], extents=[64, 64]), _file([8]))
    for device in ("NVIDIA H200", "cpu"):
        assert choose_from(files, "triton_gemm", FORMATS, (64, 64), 8, device).m == 9
        with pytest.warns(RuntimeWarning, match="never tuned"):
            assert choose_from(files, "triton_gemm", FORMATS, (64, 1), 8, device).m == 8
        _lookup._warned.clear()


def test_layouts_are_those_of_the_tuned_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere = _file([8], gpu=None, layout={"decode": None})
    monkeypatch.setattr(_lookup, "FILES", (_file([8], layout={"decode": False}), anywhere))
    assert _lookup.layouts("triton_gemm") == {FORMATS: {"decode": False}}


def test_unknown_formats_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no triton_gemm for jetfire bf16: it has e4m3-row bf16"):
        choose_from((_file([8]),), "triton_gemm", ("jetfire", "bf16"), (64, 64), 8, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "tile-workbench/configs/2"}, "schema"),
        ({"template": "os"}, "not a module of this package"),
        ({"template": "triton.gemm_scaled.evil"}, "not a module of this package"),
        ({"entries": []}, "ascending"),
        ({"entries": [{"m": 2, "config": {}}, {"m": 1, "config": {}}]}, "ascending"),
        ({"entries": [{"m": [1, 2], "config": {}}, {"m": [1], "config": {}}]}, "ascending"),
        ({"entries": [{"m": 1, "config": {}}, {"m": [2], "config": {}}]}, "ascending"),
    ],
)
def test_damaged_files_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _file([1], **changes)
