# The targets build .venv on first use, each with no more than it needs. They install again only when a requirement changes.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
SOURCES := midiff_monai tests evaluation examples docs/_tools apps

# One stamp for each set of requirements: what midiff needs to run, and what the tests or the documentation add to it.
RUNTIME := $(VENV)/.runtime
TEST    := $(VENV)/.test
DOCS    := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs figures evaluation clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(RUNTIME)  ## translate and segment a phantom; needs no data and installs only what midiff needs to run
	$(BIN)/midiff demo

test: lint  ## lint, then run the tests, one process per core, four at most
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

lint: $(TEST)  ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: $(DOCS)  ## build the documentation in build/site; a broken link or a missing docstring is an error
	$(BIN)/mkdocs build --strict

figures: $(TEST)  ## draw the pictures of the documentation again, from phantoms; the study page needs Chromium
	$(BIN)/python docs/_tools/schematic.py docs/method.svg
	$(BIN)/python docs/_tools/study_page.py docs/study_page.png
	$(BIN)/midiff demo -o build/demo
	cp build/demo/phantom_PD_qc.png docs/demo.png

# Rows that are there already are not computed again; evaluation/PROTOCOL.md says what each line is for.
DATA    ?= ../shared/data
PAIRS   := --pairs $(DATA)/multicontrast
MAPS    := --label-maps $(DATA)/label-maps
RUN     := $(BIN)/python evaluation/run.py
RESULTS := evaluation/results
SCRATCH := build/evaluation

evaluation: $(TEST)  ## fill the tables and draw the figures of evaluation/results, in hours, from DATA=../shared/data
	$(RUN) $(PAIRS) --out $(RESULTS)
	$(RUN) $(PAIRS) --out $(RESULTS)/one_millimetre --methods midiff direct
	$(RUN) --pairs $(DATA)/open-ms --simulated 3 $(MAPS) --out $(RESULTS) --methods midiff direct histogram \
		inverted_histogram randomised_contrast one_step perturbed_t1 real_t1
	$(RUN) --simulated-heads 2 $(MAPS) --out $(RESULTS) --methods midiff one_step direct perturbed_t1 real_t1
	$(BIN)/python evaluation/register.py --scans $(DATA)/open-ms --subject raw-patient01 --out $(SCRATCH)/open-ms-heads
	$(RUN) --pairs $(SCRATCH)/open-ms-heads --out $(RESULTS) --methods midiff one_step direct inverted_histogram
	$(RUN) $(PAIRS) --out $(RESULTS)/steps --methods midiff:steps=1 midiff:steps=2 midiff:steps=5
	$(RUN) $(PAIRS) --out $(RESULTS)/sdedit --methods sdedit:noise_level=250 sdedit:noise_level=750
	mkdir -p $(SCRATCH)/multicontrast
	cp $(DATA)/multicontrast/301D00252_T1.nii.gz $(DATA)/multicontrast/301D00252_PD.nii.gz $(SCRATCH)/multicontrast
	$(RUN) --pairs $(SCRATCH)/multicontrast --out $(RESULTS)/published_guide --methods published_guide \
		published_guide:steps=1000,ancestral=1
	$(BIN)/python evaluation/acquisitions.py --subject $(DATA)/multicontrast/301D00293 \
		--label-map $(DATA)/label-maps/training_seg_01.nii.gz --out $(RESULTS)/acquisitions
	$(BIN)/python evaluation/yardstick.py --data $(DATA) --out $(RESULTS)
	$(BIN)/python evaluation/together.py $(PAIRS) --out $(RESULTS)
	$(BIN)/python evaluation/together.py --pairs $(SCRATCH)/open-ms-heads --full --out $(RESULTS)
	$(BIN)/python evaluation/synthetic_error.py --data $(DATA) --samples $(SCRATCH)/synthetic_error --out $(RESULTS)
	$(BIN)/python evaluation/odd.py --data $(DATA)/odd --out $(RESULTS) --keep $(SCRATCH)/odd
	$(BIN)/python evaluation/asymmetry.py --data $(DATA) --segmentations $(SCRATCH)/asymmetry --out $(RESULTS)
	$(BIN)/python evaluation/lesions.py --data $(DATA) --out $(RESULTS)
	$(BIN)/python evaluation/parcels.py --data $(DATA) --out $(RESULTS)
	$(BIN)/python evaluation/intracranial.py --data $(DATA) --out $(RESULTS)
	$(BIN)/python evaluation/quality.py collect --data $(DATA) --out $(RESULTS)/quality --work $(SCRATCH)/quality
	$(BIN)/python evaluation/quality.py validate --out $(RESULTS)/quality --figures $(RESULTS)/figures
	$(BIN)/python evaluation/distribution.py $(PAIRS) --out $(RESULTS)
	$(BIN)/python evaluation/calibration.py $(PAIRS) --out $(RESULTS)
	$(BIN)/python evaluation/calibrated_probability.py --data $(DATA) --samples $(SCRATCH)/probability --out $(RESULTS)
	$(BIN)/python evaluation/figures.py --results $(RESULTS) --out $(RESULTS)/figures --phantom PD

clean:  ## remove caches and build products; .venv and weights stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that a CPU or CUDA build that pip is configured to find is the one that stays.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== Installing PyTorch, the largest part (several hundred megabytes)"
	$(INSTALL) torch
	@echo "== Installing midiff and what else it needs to run"
	$(INSTALL) -e .
	@touch $@

$(TEST): $(RUNTIME)
	@echo "== Installing the tools of the tests, the evaluation and the documentation"
	$(INSTALL) -e .[test,evaluation,docs]
	@touch $@

$(DOCS): $(RUNTIME)
	@echo "== Installing the tools of the documentation"
	$(INSTALL) -e .[docs]
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "== Creating the environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
