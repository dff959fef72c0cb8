# The targets build .venv on first use, and again only when its requirements change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := midiff_monai tests evaluation examples

.DEFAULT_GOAL := help
.PHONY: help demo test lint evaluation clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(STAMP)  ## translate and segment the template phantom
	$(BIN)/midiff demo

test: lint  ## lint, then run the tests, a process a core and four at most
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

# Rows that are there already are not computed again; evaluation/PROTOCOL.md says what each line is for.
DATA    ?= ../shared/data
PAIRS   := --pairs $(DATA)/multicontrast
MAPS    := --label-maps $(DATA)/label-maps
RUN     := $(BIN)/python evaluation/run.py
RESULTS := evaluation/results
SCRATCH := build/evaluation

evaluation: $(STAMP)  ## fill the tables and draw the figures of evaluation/results, in hours, from DATA=../shared/data
	$(RUN) $(PAIRS) --out $(RESULTS)
	$(RUN) --pairs $(DATA)/open-ms --simulated 3 $(MAPS) --out $(RESULTS) --methods midiff direct histogram \
		inverted_histogram randomised_contrast one_step perturbed_t1 real_t1
	$(RUN) --simulated-heads 2 $(MAPS) --out $(RESULTS) --methods midiff one_step direct perturbed_t1 real_t1
	$(BIN)/python evaluation/register.py --scans $(DATA)/open-ms --subject raw-patient01 --out $(SCRATCH)/open-ms-heads
	$(RUN) --pairs $(SCRATCH)/open-ms-heads --out $(RESULTS) --methods midiff one_step direct inverted_histogram
	$(RUN) $(PAIRS) --out $(RESULTS)/steps --methods midiff:steps=1 midiff:steps=2 midiff:steps=5
	$(RUN) $(PAIRS) --out $(RESULTS)/sdedit --methods sdedit:noise_level=250 sdedit:noise_level=750
	mkdir -p $(SCRATCH)/multicontrast
	cp $(DATA)/multicontrast/301D00252_T1.nii.gz $(DATA)/multicontrast/301D00252_PD.nii.gz $(SCRATCH)/multicontrast
	$(RUN) --pairs $(SCRATCH)/multicontrast --out $(RESULTS)/published --methods published published:steps=1000,ancestral=1
	$(BIN)/python evaluation/acquisitions.py --subject $(DATA)/multicontrast/301D00293 \
		--label-map $(DATA)/label-maps/training_seg_01.nii.gz --out $(RESULTS)/acquisitions
	$(BIN)/python evaluation/distribution.py $(PAIRS) --out $(RESULTS)
	$(BIN)/python evaluation/calibration.py $(PAIRS) --out $(RESULTS)
	$(BIN)/python evaluation/figures.py --results $(RESULTS) --out $(RESULTS)/figures --phantom PD

clean:  ## remove caches and build products; .venv and weights stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that a CPU or CUDA build that pip is configured to find is the one that stays.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .[test,evaluation]
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
