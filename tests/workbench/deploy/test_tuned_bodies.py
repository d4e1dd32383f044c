"""Bodies of tuned files: read whatever they hold, written strictly, the same after both."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tuned_folders import BODY, ENTRY

from workbench.deploy.body import body_text, read_body
from workbench.deploy.families import FAMILIES
from workbench.deploy.file_name import parse_file_name
from workbench.deploy.tuned import ENTRY_KEYS, Entry, TunedFile

FAMILY = FAMILIES["vllm-moe"]
NAME = parse_file_name(FAMILY, "E=8,N=512,device_name=NVIDIA_H200.json").name
AMD = parse_file_name(FAMILY, "E=8,N=512,device_name=AMD_Instinct_MI300X.json").name

ENTRIES = st.fixed_dictionaries({key: st.integers(1, 512) for key in ENTRY_KEYS})
BODIES = st.dictionaries(st.integers(1, 100_000), ENTRIES, min_size=1, max_size=8)


def tuned(rows: dict[int, dict[str, int]], triton: str | None = None) -> TunedFile:
    return TunedFile(
        name=NAME,
        rows=tuple((m, Entry.from_dict(rows[m])) for m in sorted(rows)),
        triton=triton,
    )


@settings(max_examples=25)
@given(BODIES, st.sampled_from([None, "3.6.0", "3.7.0+git1a2b"]))
def test_writing_reading_and_writing_again_is_the_same(
    rows: dict[int, dict[str, int]], triton: str | None
) -> None:
    text = body_text(FAMILY, tuned(rows, triton))
    body = read_body(text.encode(), FAMILY, NAME)
    assert body.faults == ()
    assert body.triton == triton
    assert body.rows == tuned(rows).rows
    assert body_text(FAMILY, TunedFile(name=NAME, rows=body.rows, triton=body.triton)) == text


def test_the_text_is_that_of_the_tuners() -> None:
    assert body_text(FAMILY, tuned({2: ENTRY}, "3.6.0")) == (
        '{\n    "triton_version": "3.6.0",\n    "2": {\n        "BLOCK_SIZE_M": 64,\n'
        '        "BLOCK_SIZE_N": 128,\n        "BLOCK_SIZE_K": 128,\n        "GROUP_SIZE_M": 8,\n'
        '        "num_warps": 4,\n        "num_stages": 3\n    }\n}\n'
    )


ODD = st.sampled_from([None, True, "x", "64", 1.5, -1, 0, 10**30, [], {}, float("nan"), ENTRY])
ODD_ENTRY = st.dictionaries(st.sampled_from(["x", "waves_per_eu", *ENTRY_KEYS]), ODD, max_size=7)
ODD_BODY = st.dictionaries(
    st.sampled_from(["1", "-1", "x", "triton_version", ""]), ODD | ODD_ENTRY, max_size=4
)


@settings(max_examples=40)
@given(st.binary(max_size=9) | (ODD | ODD_BODY).map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"' + b"9" * 5000 + b'": {}}')
@example(b'{"1": ' + b"9" * 5000 + b"}")
@example(b'{"1": {"num_warps": 1e999}}')
@example('{"٣": {}}'.encode())
def test_whatever_stands_there_becomes_faults_of_one_line(data: bytes) -> None:
    body = read_body(data, FAMILY, NAME)
    assert body.rows or body.faults
    for fault in body.faults:
        assert fault.message.isprintable()
        assert len(fault.message) < 400


def test_of_two_equal_keys_the_same_entry_is_one() -> None:
    entry = json.dumps(ENTRY)
    same = read_body(f'{{"1": {entry}, "01": {entry}}}'.encode(), FAMILY, NAME)
    assert [(f.rule, f.mended) for f in same.faults] == [("json.duplicate", True)]
    other = json.dumps(ENTRY | {"num_warps": 8})
    differ = read_body(f'{{"1": {entry}, "1": {other}}}'.encode(), FAMILY, NAME)
    assert [(f.rule, f.mended) for f in differ.faults] == [("json.duplicate", False)]
    assert not differ.whole


@pytest.mark.parametrize(
    ("value", "number"), [("4", 4), (" 4 ", 4), (4.0, 4), (4.5, None), (True, None), (None, None)]
)
def test_numbers_are_mended_where_they_leave_no_doubt(value: Any, number: int | None) -> None:
    data = json.dumps({"1": ENTRY | {"num_warps": value}}).encode()
    body = read_body(data, FAMILY, NAME)
    assert [f.rule for f in body.faults] == ["entry.type"]
    assert body.whole == (number is not None)
    assert [entry.num_warps for _, entry in body.rows] == [number] * (number is not None)


@pytest.mark.parametrize(("name", "taken"), [(NAME, False), (AMD, True)])
def test_knobs_of_rocm_are_keys_of_amd_alone(name: Any, taken: bool) -> None:
    values = ENTRY | {"waves_per_eu": 0, "matrix_instr_nonkdim": 16, "kpack": 2}
    body = read_body(json.dumps({"1": values}).encode(), FAMILY, name)
    assert [f.rule for f in body.faults] == ([] if taken else ["entry.extra"] * 3)
    assert (body.rows[0][1].extra != ()) == taken


def test_a_key_that_the_kernel_does_not_take_is_not_written() -> None:
    file = tuned({1: ENTRY | {"num_ctas": 1}})
    with pytest.raises(ValueError, match="M 1: num_ctas is no argument of vLLM's kernel"):
        body_text(FAMILY, file)
    bare = tuned({1: {k: v for k, v in ENTRY.items() if k != "GROUP_SIZE_M"}})
    with pytest.raises(ValueError, match="M 1: GROUP_SIZE_M is missing"):
        body_text(FAMILY, bare)


def test_rows_are_looked_up_by_the_nearest_m_and_the_smaller_on_a_tie() -> None:
    file = tuned({int(m): entry for m, entry in BODY.items()})
    assert [file.row(m)[0] for m in (1, 8, 9, 40, 41, 543, 544, 545, 9999)] == [
        *(1, 1, 16, 16, 64, 64, 64, 1024, 1024)
    ]


@pytest.mark.parametrize("rows", [{}, {0: ENTRY}])
def test_files_without_rows_are_refused(rows: dict[int, dict[str, int]]) -> None:
    with pytest.raises(ValueError, match="at least one, each once, ascending from 1"):
        tuned(rows)
