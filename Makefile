# Each target sets up what it needs; a fresh machine needs Python 3.11+ and make, no GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process takes file after file, in the order of tests/conftest.py: the longest first.
FILES := --dist loadfile --no-loadscope-reorder
# pytest keeps the tests' bytecode, with its assertions rewritten, for the suite that comes next.
unexport PYTHONDONTWRITEBYTECODE
# Pages whose commands the tests run; their outputs are written anew by make docs.
GUIDES := $(addprefix docs/,predict.md sweep.md calibration.md emit.md deploy.md quantization.md \
	verify.md report.md search.md add-format.md add-gpu.md add-kernel.md papers.md)

.PHONY: demo test check docs test-slow test-gpu bench bench-gpu table-dry sanitize clean

# The main job from end to end, into build/demo: predict, search, emit, verify, report.
demo: $(VENV)/.installed
	rm -rf build/demo
	$(BIN)/workbench predict --gpu h200 --shape 4096x4096x4096
	$(BIN)/workbench sweep examples/quickstart.yaml --output build/demo/run
	$(BIN)/workbench emit build/demo/run --output build/demo/package --name tile_kernels
	$(BIN)/workbench verify build/demo/package
	$(BIN)/workbench report build/demo/run

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "alone and not gpu" \
		$$(grep -rl --include="test_*.py" --exclude-dir=gpu "pytest.mark.alone" tests)
	$(BIN)/python -m pytest -n auto $(FILES)

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python -m workbench.format_page > docs/formats.md.new
	mv docs/formats.md.new docs/formats.md
	$(BIN)/python -m bench.papers > docs/papers.md.new
	mv docs/papers.md.new docs/papers.md
	$(BIN)/python -m bench.papers --evidence jetfire --evidence ptq --evidence mx
	$(BIN)/workbench evaluate --calibrated --write docs/cost-model.md
	$(BIN)/python tests/workbench/documented.py README.md $(GUIDES)

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow -n 2 $(FILES)

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/.installed
	$(BIN)/python -m pytest bench

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest bench -m gpu

# The table of ratios (docs/kernels.md) without a GPU: all but the times.
table-dry: $(VENV)/.installed
	$(BIN)/python -m bench.kernels --dry-run

# Every kernel family and mode under compute-sanitizer; goes on where it was cut off.
sanitize: $(VENV)/.installed
	mkdir -p build
	$(BIN)/python -m bench.sanitize --commit $$(git rev-parse HEAD) --output build/sanitize.json

# The pinned torch first and by itself: where an index offers a CPU build of it, pip takes that one.
# pip compiles what it installs, but not these packages: without it the first run takes seconds.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q sim tiles tuning workbench
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
