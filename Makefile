# Every target sets up what it needs, once: a Python 3.10, an environment in .venv, the packages of requirements.txt.

help:
	@echo "make demo        the shortest real run"
	@echo "make listen      a song, separated into stems (SONG=FILE for one of yours), in listen/"
	@echo "make tour        a short real run of each paper"
	@echo "make test        all tests, on the CPU"
	@echo "make fuzz        5,000 damaged files, read as the commands do"
	@echo "make bad-inputs  1,400 calls of all commands with bad arguments and files"
	@echo "make notebooks   the notebook of each paper, run anew and written with its outputs"
	@echo "make results     the numbers of the READMEs that take minutes, made again and compared"
	@echo "make lint        the checks of style and types"
	@echo "make package     a wheel, tried in a bare environment"
	@echo "make benchmark   speed, on this machine"
	@echo "make clean       remove the environment and the caches, not the results"
	@echo "PYTHON=/path/to/python3.10 names the Python to use; otherwise python3.10, pyenv and uv are searched."

demo: .venv/installed
	@.venv/bin/python mixed-precision-dnns/demo.py

listen: .venv/installed
	@$(if $(SONG),:,.venv/bin/python tools/make_song.py listen/song.wav)
	@.venv/bin/python x-umx/separate.py "$(or $(SONG),listen/song.wav)" --model xumx-small --out-dir listen --page

tour: demo
	@.venv/bin/python x-umx/train.py SYNTHETIC --epochs 1 --output runs/x-umx --overwrite
	@.venv/bin/python d3net/train.py segmentation SYNTHETIC --max-iter 25 --epoch-length 25 --output runs/d3net --overwrite
	@.venv/bin/python out-of-core-training/train.py SMALL --output runs/out-of-core --overwrite
	@.venv/bin/python data-cleansing/cleanse.py --dataset digits --flip-labels 0.1 --n-trials 1 --output runs/digits --overwrite

# A file at a time on each core: the tests of a file share the runs that they look at.
test: .venv/installed
	@.venv/bin/python -m pytest -n auto --dist loadfile

fuzz: .venv/installed
	@.venv/bin/python tools/fuzz.py

bad-inputs: .venv/installed
	@.venv/bin/python tools/bad_inputs.py

notebooks: .venv/installed
	@.venv/bin/python tools/notebooks.py

# WITHIN=30: only what took no longer, in seconds, when it was written down.
results: .venv/installed
	@.venv/bin/python tools/results.py quick --jobs 2 $(if $(WITHIN),--within $(WITHIN))

lint: .venv/installed
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m pyright --pythonpath .venv/bin/python

package: .venv/installed
	@sh tools/check_wheel.sh .venv/bin/python

benchmark: .venv/installed
	@.venv/bin/python mixed-precision-dnns/benchmark.py
	@.venv/bin/python x-umx/benchmark.py
	@.venv/bin/python d3net/benchmark.py
	@.venv/bin/python data-cleansing/benchmark.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The path of a Python 3.10, or the line that says why there is none; `checked` stops at the latter.
python = $(shell sh tools/find_python.sh '$(PYTHON)' 2>&1)
checked = $(if $(filter /%,$(firstword $(1))),$(1),$(error $(1)))

# Also when the environment exists already: a Python that cannot be used was named for a reason.
ifneq ($(PYTHON),)
named := $(call checked,$(python))
endif

pip = .venv/bin/python -m pip --disable-pip-version-check
usable_venv = $(findstring (python 3.10),$(shell $(pip) --version 2>/dev/null))

# With every engine for inference, and with MPI, to test and to compare.
.venv/installed: requirements.txt requirements-openvino.txt requirements-distributed.txt pyproject.toml
	@$(if $(usable_venv),:,'$(call checked,$(python))' -m venv --clear .venv)
	@rm -f $@
	@echo "Installing the packages of requirements.txt into .venv, which takes a minute or two ..."
	@$(pip) install --quiet -r requirements.txt -r requirements-openvino.txt -r requirements-distributed.txt
	@touch $@

.PHONY: help demo listen tour test fuzz bad-inputs notebooks results lint package benchmark clean
