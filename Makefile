# make train      train CartPole-v1 with the default configuration
# make test       run the whole test suite, but for what is slow by nature
# make test-slow  installations, wheels and what else takes minutes; below 25 minutes
# make test-faults  the tests of resume and of faults with all their tries, and a table of them; about half an hour
# make check      linter, formatter's check, type checker, order of the wings, and the fastest tests
# make sanitize   run the tests of the compiled extension under sanitisers
# make bench      measure against other libraries, into benchmarks/results/; BENCH=--long for what takes minutes
# make benchmark  what final policies reach, against other libraries: hours, resumable; BENCHMARK="--only TEXT" for a row
# make clean      remove the environment and what was built; runs/ stays
#
# PYTHON names the interpreter (3.11 or newer) that .venv is made with.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)

# The versions hold for what upright is built with, too: older pips take them from the first name, newer from the second.
INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	.venv/bin/python -m pip install --disable-pip-version-check --quiet
NATIVE = CMakeLists.txt $(wildcard native/*)

# An environment that was only half made is made again.
.DELETE_ON_ERROR:

.PHONY: train test test-slow test-faults check sanitize bench benchmark clean

train: .venv/.train
	.venv/bin/upright train CartPole-v1

test: .venv/.test
	.venv/bin/pytest --numprocesses 2 --dist worksteal

test-slow: .venv/.test
	.venv/bin/pytest -m slow

test-faults: .venv/.test
	UPRIGHT_FAULTS=long .venv/bin/pytest tests/experiments/test_cluster.py tests/runs tests/test_security.py --numprocesses 2 --dist worksteal

check: .venv/.test
	scripts/check

sanitize: .venv/.test
	scripts/sanitize

bench: .venv/.bench
	.venv/bin/python -m benchmarks.speed.benchmark $(BENCH)

benchmark: .venv/.bench
	.venv/bin/python -m benchmarks.learning.benchmark $(BENCHMARK)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis artefacts

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "upright needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# The stamps are made anew when what they installed by has changed.
# What upright needs is installed while its extension is compiled.
.venv/.train: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >.venv/dependencies
	$(INSTALL) --requirement .venv/dependencies & $(INSTALL) --no-deps --editable . && wait $$!
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(INSTALL) --editable '.[dev]'
	touch $@ .venv/.train

.venv/.bench: .venv/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(INSTALL) --editable '.[bench]'
	touch $@ .venv/.train
