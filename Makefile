# Two commands do everything on a bare checkout: `make demo` and `make test`. Each sets up .venv first
# (seconds to a few minutes, once per change of requirements.lock); only `make lock` resolves versions.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
# uv does not read pip's configuration, so pass on what the user set there (for example a local CPU wheel of torch)
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo $$PIP_FIND_LINKS)
export DO_NOT_TRACK := 1
# keep the libraries' bytecode in .venv: without it every process would compile torch and the others again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test long bench faults lint lock audit sbom clean

setup: .venv/ready

# the stamp holds the lock's hash, so touching the file or switching branches and back installs nothing
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed, found {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@if [ "$$(cat $@ 2>/dev/null)" != "$$(cat requirements.lock pyproject.toml | sha256sum)" ]; then \
	  echo "setting up .venv (once)"; \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  test -x $(UV) || { $(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null; \
	    $(BIN)/python -m pip install --quiet "uv>=0.8"; }; \
	  $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock && \
	  $(UV) pip install --quiet --python $(BIN)/python --no-deps --editable . && \
	  cat requirements.lock pyproject.toml | sha256sum > $@; \
	else touch $@; fi

# DATA=elpv: the same demo on photos of solar cells, which it installs, under their own licence
DATA ?= fashion

demo: setup
	@$(BIN)/python -m flows.demo $(DATA)

# Git and DVC wait for the disk at each small file, so tests use memory where there is plenty (1.5 GB at most).
# Large memory pages save a sixth of the kernel's work.
SCRATCH := $(shell [ "$$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1)" -gt 8000000 ] 2> /dev/null && echo /dev/shm)

test: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
test: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
	@$(BIN)/python -m tests.support.browser
	@$(BIN)/python -m tests.support.postgres
	@scratch=$$(mktemp -d "$(or $(TMPDIR),$(SCRATCH),/tmp)/evergreen.XXXXXX"); trap 'rm -rf "$$scratch"' EXIT INT TERM; \
	  TMPDIR=$$scratch $(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(or $(TESTS),--ignore=tests/benchmarks -m 'not long')

# the tests that `make test` leaves out, because it has to end within minutes: those marked `long`, and a quick pass of
# every benchmark, so that no script rots
long:
	@$(MAKE) test TESTS='-m long'

# every benchmark with its peers, one after the other, onto one page, .bench/benchmarks.html; it goes on where it was
# stopped. BENCH="--list" says what there is, BENCH="--data FOLDER" names the image sets
bench: setup
	@$(BIN)/python -m benchmarks.bench $(BENCH)

# every fault of tests/faults/matrix.py with all seeds and sizes: an hour of one core; it goes on where it was stopped
faults: setup
	@$(BIN)/python -m tests.support.browser
	@$(BIN)/python -m tests.support.postgres
	@$(BIN)/python -m tests.faults $(FAULTS)

lint: setup
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/lint-imports

# one universal resolution (3.11 to 3.13, every platform); torch brings its own CUDA packages where it needs them
lock: setup
	$(UV) pip compile pyproject.toml --extra dev --extra heic --extra clip --extra serve --extra openvino --extra transformers --extra ray --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock
	@sed -i -E '/^(nvidia-|cuda-|triton)/d' requirements.lock

# known weaknesses of the locked packages, by a tool in an environment of its own; without a network it says so
audit: setup
	@found=$$($(UV) tool run --quiet --from 'pip-audit>=2.9' pip-audit --no-deps --disable-pip --progress-spinner off \
	  -r requirements.lock 2>&1); code=$$?; \
	if [ "$$(echo "$$found" | grep -c "could not be audited")" -gt 50 ] || echo "$$found" | grep -qiE \
	  "resolve host|dns error|connection|timed out|failed to fetch|request or response"; \
	then echo "not audited: the package index or its list of weaknesses cannot be reached"; \
	else echo "$$found"; exit $$code; fi

# what is in the lock, as CycloneDX; each release has such a list of its own (runs/<run id>/sbom.cdx in the store)
sbom: setup
	@$(UV) tool run --quiet --from 'cyclonedx-bom>=7' cyclonedx-py requirements requirements.lock \
	  --sv 1.6 --of JSON -o sbom.json && echo "sbom.json"

clean:
	rm -rf .venv .demo
