# make install | test | demo | lint | clean; each does all its own set-up in $(VENV).
PYTHON ?= python3
VENV ?= .venv
STACK ?= tf215

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(STACK)
SOURCES := panoptic_tf experiments export tests benchmarks
TYPED := $(addprefix panoptic_tf/,structures.py datasets inputs metrics serving)

.DELETE_ON_ERROR:
.PHONY: install test demo lint clean

install: $(STAMP)
	@cat $(STAMP)

$(STAMP): setup.cfg pyproject.toml $(wildcard constraints/*.txt)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" STACK="$(STACK)" ./install.sh "$@"
