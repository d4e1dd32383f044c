"""Workspaces of products that share K, and how stream-K shares it."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.kernels.triton.split_workspace import (  # noqa: E402 - triton is optional
    MAX_SPLIT_TILES,
    check_workspace,
    stream_programs,
    workspace_words,
)

TILE = {"block_m": 32, "block_n": 64, "block_k": 16}
SPLIT = {**TILE, "split_k": 3}
STREAM = {**TILE, "stream_k": True, "split_k": 1}


def test_words_are_counters_and_one_buffer_a_share() -> None:
    assert workspace_words({**TILE, "split_k": 1}, 100, 100) == 0
    assert workspace_words(SPLIT, 100, 100) == MAX_SPLIT_TILES + 4 * 2 * 3 * 32 * 64
    # Two buffers a program, however many tiles there are.
    words = MAX_SPLIT_TILES + 2 * 7 * 32 * 64
    assert workspace_words(STREAM, 10_000, 10_000, 4096, 7) == words


def test_a_stream_has_a_program_a_multiprocessor_but_no_tiny_ones() -> None:
    assert stream_programs(STREAM, 4096, 4096, 4096, 132) == 132
    # 2 tiles of 8 steps: four steps a program.
    assert stream_programs(STREAM, 64, 64, 128, 132) == 4
    # Tiles of a single step are whole.
    assert stream_programs(STREAM, 128, 64, 16, 132) == 4
    assert stream_programs(STREAM, 128, 64, 16, 3) == 3
    # Its tiles are all counted, however many programs are asked for.
    assert stream_programs(STREAM, 2**16, 2**16, 4096, 10**6) == MAX_SPLIT_TILES // 2
    with pytest.raises(ValueError, match="134217728 steps a tile, too many for 32 bits"):
        stream_programs(STREAM, 32, 64, 2**31, 132)


def test_a_workspace_that_does_not_fit_is_refused() -> None:
    words = workspace_words(SPLIT, 100, 100)
    like = torch.zeros(1)

    def check(workspace: torch.Tensor | None, m: int = 100) -> None:
        check_workspace(SPLIT, workspace, words=words, m=m, n=100, like=like, name="a")

    check(torch.zeros(words, dtype=torch.int32))
    with pytest.raises(ValueError, match=f"split_k 3 needs a workspace of {words} int32 zeros"):
        check(None)
    with pytest.raises(ValueError, match=f"must be {words} contiguous words"):
        check(torch.zeros(words - 1, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"workspace has dtype torch\.int64"):
        check(torch.zeros(words, dtype=torch.int64))
    with pytest.raises(ValueError, match="workspace lies on meta and a on cpu"):
        check(torch.zeros(words, dtype=torch.int32, device="meta"))
    with pytest.raises(ValueError, match=f"a workspace counts {MAX_SPLIT_TILES}"):
        check(torch.zeros(words, dtype=torch.int32), m=32 * MAX_SPLIT_TILES)
