# make train   install, then train, evaluate and export on data that needs no download
# make test    install, then run the fast tests      make slow   the slow ones too
# make lint    ruff and mypy
# make picture draw docs/report.png: the report that make train writes, in chromium
PYTHON ?= python3
VENV ?= .venv
# torch is only used to compare networks; `make test EXTRAS=test,serving` avoids its download.
EXTRAS ?= test,serving,onnx,tensorboard,torch
PYTEST_ARGS ?=

BIN := $(VENV)/bin
RUN := runs/digits

.PHONY: train picture test slow lint clean

train: $(VENV)/installed
	rm -rf $(RUN)
	$(BIN)/python train.py --flagfile=recipes/digits_lenet5.flags --run_dir=$(RUN)
	$(BIN)/python evaluate.py --run=$(RUN)
	$(BIN)/python export.py --run=$(RUN)

picture: train
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,1060 \
	  --screenshot=docs/report.png file://$(CURDIR)/$(RUN)/report/index.html

# Three processes on two cores, because some tests only wait for other processes.
test: $(VENV)/installed-for-tests
	$(BIN)/python -m pytest -n 3 --dist=loadfile $(PYTEST_ARGS)

slow: $(VENV)/installed-for-tests
	$(BIN)/python -m pytest --run_slow $(PYTEST_ARGS)

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-for-tests: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .[$(EXTRAS)]
	touch $@ $(VENV)/installed
