# Every target makes the virtual environment it needs. make demo and make test are the two to know.
VENV := .venv
PYTHON := $(VENV)/bin/python
STEERED := guidance=classifier guidance.run=outputs/digits_classifier/latest label=all count=100
PARALLEL := hydra/launcher=joblib hydra.launcher.n_jobs=-1
BASE := python3

.PHONY: demo docs test test-slow lint types check gallery gallery-fashion gallery-race paper clean

# Set everything up and run the main job: train on the paper's smile, sample, measure, draw.
demo: $(VENV)/run
	$(PYTHON) scripts/train.py experiment=smile
	@echo "look at outputs/smile/latest/figures/samples.png; for more commands: . $(VENV)/bin/activate"

# The documentation, in build/docs/index.html; any warning is an error.
docs: $(VENV)/docs
	$(PYTHON) -m sphinx -q -W --keep-going docs build/docs

# Set everything up and run the tests.
test: $(VENV)/dev
	$(PYTHON) -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

# Half an hour on two cores: runs killed at every operation on a file, disks that fill up, thousands of configurations.
test-slow: $(VENV)/dev
	$(PYTHON) -m pytest -n 2 -m slow

lint: $(VENV)/dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)/dev
	$(PYTHON) -m mypy

check: lint types test

# The figures of the README, but for the clothes: a quarter of an hour on two cores.
gallery: $(VENV)/run
	$(PYTHON) scripts/train.py experiment=smile
	$(PYTHON) scripts/train.py experiment=gaussian_mixture
	$(PYTHON) scripts/sample.py -m run=outputs/smile/latest \
		sampler=adams,stochastic_adams,dpm_solver,euler_maruyama sampler.steps=5,10,20,50,100
	cp "$$(ls -d outputs/smile/latest/frontiers/* | tail -1)/frontier.png" outputs/gallery/frontier.png
	cp outputs/smile/latest/figures/samples.png outputs/gallery/smile.png
	cp outputs/smile/latest/figures/generation.gif outputs/gallery/smile.gif
	cp outputs/gaussian_mixture/latest/figures/process.png outputs/gallery/mixture_process.png
	$(PYTHON) scripts/train.py experiment=digits
	$(PYTHON) scripts/train.py experiment=digits_classifier
	$(PYTHON) scripts/sample.py run=outputs/digits/latest $(STEERED) guidance.scale=3
	cp "$$(ls -d outputs/digits/latest/samples/* | tail -1)/figures/classes.png" outputs/gallery/digits_classes.png
	$(PYTHON) scripts/sample.py -m run=outputs/digits/latest $(STEERED) guidance.scale=0,1,2,3,4,8
	cp "$$(ls -d outputs/digits/latest/frontiers/* | tail -1)/steering.png" outputs/gallery/digits_steering.png
	$(PYTHON) scripts/sample.py run=outputs/digits/latest \
		guidance=inpaint guidance.measurement.mask=top guidance.image=3 count=100
	cp "$$(ls -d outputs/digits/latest/samples/* | tail -1)/figures/posterior.png" outputs/gallery/digits_inpaint.png

# The clothes of the README: an hour on two cores.
gallery-fashion: $(VENV)/run
	$(PYTHON) scripts/train.py experiment=fashion_mnist
	cp outputs/fashion_mnist/latest/figures/samples.png outputs/gallery/fashion_mnist.png

# The race of the mathematics' page: 25 minutes.
gallery-race: $(VENV)/run
	$(PYTHON) scripts/benchmark.py time_to_quality
	cp outputs/benchmark/time_to_quality/figure.png outputs/gallery/time_to_quality.png

# Every experiment of the paper, further seeds of the quick ones, what the paper's grid of times would have cost, and a page
# to read them on: outputs/paper/report.html. As many jobs at once as there are cores.
paper: $(VENV)/parallel
	$(PYTHON) scripts/train.py sweep=paper $(PARALLEL)
	$(PYTHON) scripts/train.py sweep=paper/seeds $(PARALLEL)
	$(PYTHON) scripts/sample.py run=outputs/paper/1-paper_digits sampler=euler_maruyama label=all count=20 \
		guidance=classifier guidance.run=outputs/paper/2-paper_digits_classifier
	$(PYTHON) scripts/train.py sweep=paper/grid forecast=true
	$(PYTHON) scripts/report.py outputs/paper

clean:
	rm -rf $(VENV)

$(VENV)/run: pyproject.toml requirements.lock
	$(BASE) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e .
	touch $@

$(VENV)/parallel: $(VENV)/run
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[parallel]'
	touch $@

$(VENV)/docs: $(VENV)/run
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
	touch $@

$(VENV)/dev: $(VENV)/run
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $@
