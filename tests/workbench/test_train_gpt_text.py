"""Text of packages: order, repeats, tables, what is held out; batches and the bigram model."""

import hashlib
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from train_gpt_cases import WORDS, settings, write_files

from bench.train_gpt.batches import held_out_windows, starts_of
from bench.train_gpt.bigram import bigram_loss
from bench.train_gpt.text import Text, gather, package_folders

LIMIT = 10**7


def read(*folders: Path, limit: int = LIMIT, least: int = 1) -> Text:
    return gather(folders, limit=limit, least=least)


def files_of(part: np.ndarray) -> set[bytes]:
    return set(part.tobytes().split(b"\0")) - {b""}


def test_every_file_lies_on_one_side_and_all_of_them_are_there(tmp_path: Path) -> None:
    text = read(write_files(tmp_path))
    train, held_out = files_of(text.train), files_of(text.held_out)
    assert not train & held_out
    assert train | held_out == {path.read_bytes() for path in tmp_path.rglob("*.md")}
    assert (text.card.train_files, text.card.held_out_files) == (len(train), len(held_out))
    both = text.train.tobytes() + text.held_out.tobytes()
    size = len(text.train).to_bytes(8, "little")
    assert text.card.digest == hashlib.sha256(size + both).hexdigest()
    assert text.card.bytes_of == {".md": len(both)}


def test_the_order_is_the_same_whatever_the_folder_is_called(tmp_path: Path) -> None:
    one, other = (read(write_files(tmp_path / name)) for name in ("one", "other"))
    assert one.card == other.card
    assert (one.train == other.train).all()


def test_a_file_more_moves_no_other_across_the_border(tmp_path: Path) -> None:
    before = read(write_files(tmp_path))
    (tmp_path / "new.rst").write_text("of its own\n" + WORDS * 9, encoding="utf-8")
    after = read(tmp_path)
    assert files_of(before.train) <= files_of(after.train)
    assert files_of(before.held_out) <= files_of(after.held_out)


def test_what_repeats_a_file_but_for_white_space_is_left_out(tmp_path: Path) -> None:
    before = read(write_files(tmp_path))
    again = (tmp_path / "part0" / "file0.md").read_text(encoding="utf-8")
    (tmp_path / "copy.txt").write_text(again.replace("\n", "\n\n  "), encoding="utf-8")
    after = read(tmp_path)
    assert after.card.left_out == {"repeats another": 1}
    assert after.card.train_files + after.card.held_out_files == 60
    # Whichever of the two came first, the same side has it.
    assert after.card.held_out_files == before.card.held_out_files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"words " * 4, "too short"),
        (b"word \n" * 80_000, "too long"),
        (b"\xff\xfe" + WORDS.encode() * 9, "no UTF-8"),
        (b"nothing\0" + WORDS.encode() * 9, "no text"),
        (b"1234567 89012\n" * 40, "a table"),
        (b"abcdefgh" * 400, "a table"),
    ],
)
def test_what_is_no_text_is_left_out_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    before = read(write_files(tmp_path))
    (tmp_path / "odd.txt").write_bytes(content)
    after = read(tmp_path)
    assert after.card.left_out == {reason: 1}
    assert after.card.digest == before.card.digest


def test_other_suffixes_hidden_folders_and_foreign_packages_are_not_read(tmp_path: Path) -> None:
    before = read(write_files(tmp_path))
    for place in ("data.csv", ".hidden/note.md", "lib/site-packages/other/readme.md"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of its own\n" + WORDS * 9, encoding="utf-8")
    assert read(tmp_path).card == before.card


def test_a_limit_ends_the_text_behind_the_file_that_reaches_it(tmp_path: Path) -> None:
    whole = read(write_files(tmp_path))
    part = read(tmp_path, limit=120_000)
    size = part.card.train_bytes + part.card.held_out_bytes
    longest = max(map(len, files_of(whole.train) | files_of(whole.held_out)))
    assert 120_000 <= size <= 120_000 + longest
    assert part.train.tobytes() == whole.train.tobytes()[: len(part.train)]


def test_too_little_text_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bytes of text, 5000000 are asked for.*--text"):
        read(write_files(tmp_path), least=5_000_000)
    with pytest.raises(ValueError, match=r"absent: no such folder"):
        read(tmp_path / "absent")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file.md").write_text(WORDS * 9, encoding="utf-8")
    with pytest.raises(ValueError, match=r"too few files to hold some out"):
        read(tmp_path / "one")


def test_packages_and_the_standard_library_are_the_default() -> None:
    folders = package_folders()
    assert (Path(np.__file__).parents[1]).resolve() in folders
    assert Path(hashlib.__file__).parent.resolve() in folders


def test_batches_follow_from_the_seed_and_stay_inside_the_text() -> None:
    tiny = settings()
    one, again, other = (starts_of(1000, tiny, seed) for seed in (0, 0, 1))
    assert one.shape == (tiny.steps, tiny.size.batch)
    assert (one == again).all()
    assert (one != other).any()
    last = starts_of(tiny.size.tokens + 1, tiny, 0)
    assert (last == 0).all()
    with pytest.raises(ValueError, match=r"text of 32 bytes: sequences have 32"):
        starts_of(32, tiny, 0)


def test_windows_of_the_held_out_text_are_pieces_of_it() -> None:
    tiny = settings(windows=50)
    text = np.arange(200, dtype=np.uint8)
    windows = held_out_windows(text, tiny)
    assert windows.shape == (50, tiny.size.tokens + 1)
    assert (np.diff(windows.astype(int)) == 1).all()
    assert windows.min() >= 0
    assert windows.max() <= 199
    with pytest.raises(ValueError, match=r"held-out text of 10 bytes"):
        held_out_windows(text[:10], tiny)


def test_the_bigram_loss_is_that_of_counting_by_hand() -> None:
    random = np.random.default_rng(3)
    train = random.integers(97, 103, size=500).astype(np.uint8)
    windows = random.integers(95, 105, size=(7, 9)).astype(np.uint8)
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    first = Counter(train[:-1].tolist())
    losses = []
    for window in windows.tolist():
        for before, byte in itertools.pairwise(window):
            probability = (pairs[before, byte] + 1) / (first[before] + 256)
            losses.append(-math.log(probability))
    assert bigram_loss(train, windows) == pytest.approx(sum(losses) / len(losses), rel=1e-12)
