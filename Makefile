# foleybook: every target needs only Python 3.11-3.13 and make.
#
#   PYTHON=/path/to/python3.11   the Python to build .venv with (default: the first fitting one on the PATH)
#   SHARE=0.1                    share of the tries of `make faults` (default: 1)
#   ARGS='-x -k docs'            words for pytest: `make test ARGS=...` runs some of the checks
#   N=03                         chapter of `make chapter`
#   TORCH_INDEX=URL              take torch, torchaudio and torchvision from this wheel index (CPU builds are far smaller)

PYTHON ?=
ARGS ?=
SHARE ?= 1
TORCH_INDEX ?=
N ?= 00
PY := .venv/bin/python
PIP := $(PY) -m pip install -c constraints.txt
CORE := .venv/.core
FULL := .venv/.full
# as many tests at a time as there are cores; one file, or one notebook, is one piece
PYTEST := $(PY) -m pytest -n auto

.PHONY: help demo lab check test test-all chapter docs bench faults clean
help:
	@echo 'make demo      hear the generator that comes with the book'
	@echo 'make lab       open the notebooks in JupyterLab'
	@echo 'make check     the quick checks: house rules, imports, export, published numbers (a minute)'
	@echo 'make test      all but the slow checks (ten minutes on two cores)'
	@echo 'make test-all  every check: also the site in a browser, kills, faults, several processes, the wheel'
	@echo 'make chapter   one chapter: its notebook, its tests, its published numbers (N=03)'
	@echo 'make docs      build the site into docs/_site'
	@echo 'make bench     measure speed and memory'
	@echo 'make faults    break everything many times and count what survives (long; SHARE=0.1 for a tenth)'
	@echo 'make clean     remove .venv and everything built; your runs/ and out/ stay'
	@echo 'Each target makes .venv first when it is absent or out of date; `demo` installs only what sampling needs.'
	@echo 'Options: PYTHON=python3.11  TORCH_INDEX=URL (wheel index with CPU builds of torch)  ARGS="-x -k docs"'

demo: $(CORE)
	.venv/bin/foleybook demo

lab: $(FULL)
	.venv/bin/jupyter lab nbs

check: $(FULL)
	$(PYTEST) --tier check $(ARGS)

test: $(FULL)
	$(PYTEST) --tier test $(ARGS)

test-all: $(FULL)
	$(PYTEST) $(ARGS)

chapter: $(FULL)
	$(PYTEST) --chapter $(N) $(ARGS)

docs: $(FULL)
	$(PY) docs/build.py

bench: $(FULL)
	.venv/bin/foleybook bench

faults: $(FULL)
	$(PY) tests/faults/jobs.py --share $(SHARE) --out docs/faults.json

clean:
	rm -rf .venv _proc docs/_site docs/_src build *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@found=; for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    found=$$p; if $$p -c 'import venv, ensurepip' 2>/dev/null; then break; fi; fi; done; \
	if [ -z "$$found" ]; then \
	  echo 'No Python 3.11, 3.12 or 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; fi; \
	if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$$found cannot make a virtual environment: its venv module is missing." >&2; \
	  echo 'On Debian or Ubuntu: sudo apt install python3-venv' >&2; exit 1; fi; \
	echo "Making .venv with $$found"; $$found -m venv --clear .venv

# The first circle: what sampling, editing and playing import
$(CORE): pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing into .venv: a few minutes the first time'
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch torchaudio)
	$(PIP) -e .
	@touch $@

# All of it: training, the notebooks, the tests, the site
$(FULL): $(CORE)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torchvision)
	$(PIP) -e ".[book,dev,docs]"
	@$(PIP) -e ".[checked]" || echo 'Left out: ONNX, TensorBoard and torch-fidelity could not be installed, their tests are skipped.'
	@$(PIP) --no-deps aisfx || echo 'Left out: aisfx could not be installed, its tests are skipped.'
	@# librosa compiles parts of itself when it is first imported; two processes at once may leave them broken
	EAGER_IMPORT=1 $(PY) -c "import librosa"
	@touch $@
