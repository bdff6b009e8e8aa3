# What a person runs and what CI runs are the same targets. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python

.PHONY: install example test lint types package proto data

.venv/bin/python:
	python3 -m venv .venv

install: .venv/bin/python  ## everything that development needs
	$(PYTHON) -m pip install --quiet --editable '.[dev]'

example:  ## the main job on the bundled checkpoint
	$(PYTHON) -m tfreader.cli.main convert --model_type bert \
	  --tf_checkpoint examples/bert-tiny/bert_model.ckpt \
	  --config examples/bert-tiny/bert_config.json --pytorch_dump_output build/bert-tiny

test:
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# mypy must see the installed tree: a wheel in a folder of its own, away from ./tfreader.
types:
	rm -rf build/types && mkdir -p build/types
	$(PYTHON) -m pip install --quiet --no-deps --target build/types .
	cd build/types && $(abspath $(PYTHON)) -m mypy --config-file ../../pyproject.toml \
	  --python-executable $(abspath $(PYTHON))

package:  ## build the wheel and try it in a bare environment without torch
	rm -rf build/bare dist && $(PYTHON) -m build --outdir dist
	python3 -m venv build/bare
	build/bare/bin/python -m pip install --quiet dist/*.whl
	build/bare/bin/python -m zipfile --list dist/*.whl
	$(PYTHON) tests/check_bare.py build/bare dist

proto:  ## regenerate tfreader/checkpoint_pb2.py from proto/
	$(PYTHON) proto/generate.py

data:  ## remake examples/ and tests/data/; PYTHON must have tensorflow-cpu 2.15.1
	$(PYTHON) tests/make_data.py
