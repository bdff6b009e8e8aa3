# What a person runs and what CI runs are the same targets. VENV may name another environment,
# PYTHON3 the Python that makes it.
VENV ?= .venv
PYTHON3 ?= python3
BIN ?= $(VENV)/bin
PYTHON = "$(BIN)/python"
# Where torch is looked for besides: PyPI's brings gigabytes of CUDA on Linux. Passed over where it
# cannot be reached.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH = $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

.PHONY: example test test-lowest fuzz lint types package bench proto data
.NOTPARALLEL:  # with -j too: what is made here is shared, and tests take all processors by themselves

# Stops with a line where that Python is too old, and where it is one to remove, says so.
version = $(shell $(1) -c 'import sys; print(sys.version.split()[0] * (sys.version_info < (3, 11)))')
new_enough = $(if $(call version,$(1)),$(error tfreader needs Python 3.11 or later, and $(1) is \
  $(call version,$(1)); $(2)name another, as in: make $(or $(MAKECMDGOALS),example) PYTHON3=python3.12))

$(VENV)/base: pyproject.toml  ## what a user needs
	$(call new_enough,$(or $(wildcard $(VENV)/bin/python),$(PYTHON3)),$(if $(wildcard $(VENV)/bin/python),remove $(VENV) and ))
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --editable .
	touch $@

# Byte-code of all of it would take a minute to make; of what is imported it is made then, and kept.
unexport PYTHONDONTWRITEBYTECODE

$(VENV)/dev: $(VENV)/base  ## what development needs too; only newer releases of pip know groups
	$(PYTHON) -m pip install --quiet --upgrade 'pip>=25.1'
	$(PYTHON) -m pip install --quiet --no-compile --no-deps --retries 1 --timeout 30 \
	  $(TORCH_INDEX:%=--extra-index-url %) '$(TORCH)'
	$(PYTHON) -m pip install --quiet --no-compile --group dev
	touch $@

example: $(VENV)/base  ## the main job on the bundled checkpoint
	"$(BIN)/tfreader" convert --model_type bert \
	  --tf_checkpoint examples/bert-tiny/bert_model.ckpt \
	  --config examples/bert-tiny/bert_config.json --pytorch_dump_output build/bert-tiny
	@echo 'Now `. $(VENV)/bin/activate` makes tfreader a command of this shell.'

test: $(VENV)/dev
	$(PYTHON) -m pytest -n auto --dist worksteal

build/lowest/installed: pyproject.toml tests/lowest.py
	$(call new_enough,$(PYTHON3))
	$(PYTHON3) tests/lowest.py build/lowest
	touch $@

test-lowest: build/lowest/installed  ## the tests with the lowest releases that pyproject.toml allows
	build/lowest/bin/python -m pytest -n auto --dist worksteal

RUNS ?= 20000
SECONDS ?= 20
SEED ?= 1
TARGET ?= v1,v2,graph,state keras rules,jobs,beside,settings,records,folders,models
fuzz: $(VENV)/dev  ## damaged input of all kinds, for longer if SECONDS says so; see tests/fuzz.py
	mkdir -p build && for target in $(TARGET); do TARGET=$$target $(PYTHON) tests/fuzz.py \
	  -artifact_prefix=build/ -runs=$(RUNS) -max_total_time=$(SECONDS) -seed=$(SEED) || exit 1; done

lint: $(VENV)/dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)/dev
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy tests/typed_use.py

package: $(VENV)/dev  ## install as docker/Dockerfile does, and try it: no torch, no pip
	rm -rf build/bare dist && $(PYTHON) tests/check_bare.py build/bare

bench: $(VENV)/dev  ## needs 6 GB of disk, 40 with ARGS=--large; see benchmarks/convert.py
	$(PYTHON) benchmarks/convert.py $(ARGS)

proto: $(VENV)/dev  ## regenerate tfreader/checkpoint_pb2.py from proto/
	$(PYTHON) proto/generate.py

data:  ## remake examples/ and tests/data/; BIN must have tensorflow-cpu 2.15.1
	$(PYTHON) tests/make_data.py
	$(PYTHON) examples/make_examples.py

.PHONY: docs dist sbom test-sdist

# What makes the docs and a release, and is needed for nothing else.
build/tools/installed: pyproject.toml
	$(call new_enough,$(PYTHON3))
	$(PYTHON3) -m venv --clear build/tools
	build/tools/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	build/tools/bin/python -m pip install --quiet --group docs --group release
	touch $@

docs: build/tools/installed  ## the site, in build/site; a link or an anchor that is not there is an error
	PYTHONDONTWRITEBYTECODE=1 NO_MKDOCS_2_WARNING=1 build/tools/bin/mkdocs build --strict

# Of the commit: the wheel then has the same bytes whenever it is made.
dist: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
dist: build/tools/installed  ## what is published, in dist/, checked as package indexes do
	rm -rf dist && build/tools/bin/python -m build --outdir dist
	build/tools/bin/twine check --strict dist/*

sbom: dist  ## what the wheel brings along, as CycloneDX, in build/sbom.cdx.json
	$(PYTHON3) -m venv --clear --without-pip build/sbom
	build/tools/bin/python -m pip --python build/sbom/bin/python install --quiet dist/*.whl
	rm build/sbom/lib/python*/site-packages/tfreader_torch-*/direct_url.json  # this machine's path
	build/tools/bin/cyclonedx-py environment --output-reproducible \
	  --output-file build/sbom.cdx.json build/sbom/bin/python

test-sdist: dist build/lowest/installed  ## test-lowest of what is published: the sdist, its tests, installed
	rm -rf build/sdist && mkdir build/sdist
	tar -xzf dist/*.tar.gz -C build/sdist --strip-components 1
	build/lowest/bin/python -m pip install --quiet --no-deps --force-reinstall build/sdist
	cd build/sdist && ../lowest/bin/python -m pytest -n auto --dist worksteal
