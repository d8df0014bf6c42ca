# `make test` and `make demo` need Python >= 3.11 and nothing else.
PYTHON ?= python3
SYSTEM ?= picmm
BIN := .venv/bin
RUN := runs/demo-$(SYSTEM)
INPUTS := --image=$(RUN)/held-out --mask=$(RUN)/held-out-masks
ifeq ($(SYSTEM),inade)
INPUTS := --labels=$(RUN)/held-out-maps
endif

.PHONY: help test demo fuzz kill-test test-wheel clean

help:  ## lists the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'

# Reinstalled only when the requirements change.
.venv/installed: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

test: .venv/installed  ## ruff, pyright and the test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist loadfile

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

.PHONY: docs pictures
docs: .venv/docs-installed  ## builds the site into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open:         site/index.html"

pictures: .venv/installed  ## draws the README's pictures from the runs in runs/
	$(BIN)/python docs/make_pictures.py

demo: .venv/installed  ## trains SYSTEM on photographs, completes, evaluates (4 to 30 min)
	$(BIN)/python -m picjax.train --config=configs/$(SYSTEM).py:demo --workdir=$(RUN)
	$(BIN)/python -m picjax.data.export --workdir=$(RUN) --num=8
	$(BIN)/python -m picjax.complete --workdir=$(RUN) $(INPUTS) --num=6
	$(BIN)/python -m picjax.eval --workdir=$(RUN) --num=6 --images=64
ifeq ($(SYSTEM),painter)
	$(BIN)/python -m picjax.compose --examples $(RUN)/scenes
	$(BIN)/python -m picjax.complete --workdir=$(RUN) --compose $(RUN)/scenes/*/*.json --num=6
endif
	@echo
	@echo "to look at:   $(RUN)/eval/report.html"
	@echo "completions:  $(RUN)/completions/"
	@echo "metrics:      $(RUN)/eval/metrics.json"
	@echo "checkpoint:   $(RUN)/checkpoints/"

.PHONY: embedded
embedded: .venv/installed  ## trains and writes the model in the package (half an hour)
	$(BIN)/python -m picjax.train --config=configs/picmm.py:embedded \
	    --workdir=runs/embedded
	$(BIN)/python -m picjax.export --workdir=runs/embedded --half \
	    --out=picjax/demo.safetensors

.PHONY: notebook
notebook: .venv/installed  ## executes the notebook of the documentation
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebook]'
	$(BIN)/python tests/workers/run_notebook.py docs/notebooks/picjax.ipynb

KILLS ?= 20
kill-test: .venv/installed  ## KILLS kills of training, saving, completing, evaluating
	$(BIN)/python -m pytest tests/test_resume.py -k killed --kills $(KILLS)

.PHONY: test-slurm
test-slurm: .venv/installed  ## launch/slurm.sh under Slurm, two nodes on this machine (root)
	$(BIN)/python -m pytest -rs -n 0 tests/launch/real_slurm.py

.PHONY: test-buckets
test-buckets: .venv/installed  ## runs, data and outputs in gs://, against an emulator
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[gcs]' gcp-storage-emulator
	$(BIN)/python -m pytest -rs -n 0 tests/in_buckets.py

.PHONY: test-app
test-app: .venv/installed  ## the app in a browser (needs Debian's chromium, and playwright)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest -rs -n 0 tests/app/in_browser.py

MINUTES ?= 8
.PHONY: bench-gpu
bench-gpu: .venv/installed  ## what docs/speed.md wants from a GPU, into runs/gpu.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cuda,bench,parity]'
	$(BIN)/python -m bench.gpu --minutes $(MINUTES)

FUZZ_CASES ?= 10000
fuzz: .venv/installed  ## 10,000 hostile inputs; resumes where it was stopped
	$(BIN)/python tests/workers/run_fuzz.py --cases $(FUZZ_CASES) --out runs/fuzz.json

test-wheel: .venv/installed  ## builds the wheel and uses it in a fresh environment
	$(BIN)/python tests/workers/check_wheel.py

clean:  ## removes the environment; runs/ stays
	rm -rf .venv *.egg-info
