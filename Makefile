# Each target makes the virtual environment that it needs. Begin with make demo and make test.
VENV := .venv
PYTHON := $(VENV)/bin/python
SDEGEN := $(VENV)/bin/sdegen
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check
STEERED := guidance=classifier guidance.run=outputs/digits_classifier/latest label=all count=100
PARALLEL := hydra/launcher=joblib hydra.launcher.n_jobs=-1
BASE := python3
# Folder of the newest run of a name, which the file latest names.
newest = outputs/$(1)/$$(cat outputs/$(1)/latest)

.PHONY: demo docs test coverage test-slow lint types check wheel lock gallery gallery-fashion gallery-race paper clean

# Train on the paper's smile, sample, measure and draw.
demo: $(VENV)/run
	$(SDEGEN) train experiment=smile
	@echo "see $(call newest,smile)/figures/samples.png; for the command sdegen: . $(VENV)/bin/activate"

# Build the documentation in build/docs/index.html; any warning is an error.
docs: $(VENV)/docs
	$(PYTHON) -m sphinx -q -W --keep-going docs build/docs

# Run the fast tests, or only those in FILE, as in make test FILE=tests/sde.
test: $(VENV)/dev
	$(PYTHON) -m pytest -n 2 --dist worksteal $(FILE)

# Run the fast tests and list the lines of sdegen that none of them runs. Tracing takes half as much time again.
coverage: $(VENV)/dev
	$(PYTHON) -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

# Run the slow tests, half an hour on two cores: runs killed at each file operation, full disks, thousands of configurations.
test-slow: $(VENV)/dev
	$(PYTHON) -m pytest -n 2 -m slow

lint: $(VENV)/dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)/dev
	$(PYTHON) -m mypy

check: lint types test

# Build dist/*.whl, which has the package and its configurations.
wheel: $(VENV)/dev
	rm -rf build
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

# Resolve the dependencies again; versions in requirements.lock that still fit are kept. The lock serves the CPU and the CUDA
# build of torch, so it has neither the suffix of a build nor the packages that torch needs for CUDA.
lock: $(VENV)/dev
	$(PIP) install uv
	$(PYTHON) -m uv pip compile pyproject.toml --extra dev --quiet --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock
	sed -i -E '/^(cuda|nvidia|triton)/d; s/\+cpu$$//' requirements.lock

# Draw the figures of the READMEs and of docs/ again, except the two below: a quarter of an hour on two cores.
gallery: $(VENV)/run
	$(SDEGEN) train experiment=smile
	$(SDEGEN) train experiment=gaussian_mixture
	$(SDEGEN) sample -m run=outputs/smile/latest \
		sampler=adams,stochastic_adams,dpm_solver,euler_maruyama sampler.steps=5,10,20,50,100
	cp "$$(ls -d $(call newest,smile)/frontiers/* | tail -1)/frontier.png" outputs/gallery/frontier.png
	cp $(call newest,smile)/figures/samples.png outputs/gallery/smile.png
	cp $(call newest,smile)/figures/generation.gif outputs/gallery/smile.gif
	cp $(call newest,gaussian_mixture)/figures/process.png outputs/gallery/mixture_process.png
	$(SDEGEN) train dataset=gaussian_mixture network=oracle sde=linear name=mixture_linear
	cp $(call newest,mixture_linear)/figures/process.png outputs/gallery/mixture_linear.png
	$(SDEGEN) train experiment=posterior dataset=two_moons name=two_moons
	$(SDEGEN) sample run=outputs/two_moons/latest condition=[0,0]
	cp "$$(ls -d $(call newest,two_moons)/samples/* | tail -1)/figures/samples.png" outputs/gallery/two_moons_posterior.png
	$(SDEGEN) train experiment=digits
	$(SDEGEN) train experiment=digits_classifier
	$(SDEGEN) sample run=outputs/digits/latest $(STEERED) guidance.scale=3
	cp "$$(ls -d $(call newest,digits)/samples/* | tail -1)/figures/classes.png" outputs/gallery/digits_classes.png
	$(SDEGEN) sample -m run=outputs/digits/latest $(STEERED) guidance.scale=0,1,2,3,4,8
	cp "$$(ls -d $(call newest,digits)/frontiers/* | tail -1)/steering.png" outputs/gallery/digits_steering.png
	$(SDEGEN) sample run=outputs/digits/latest \
		guidance=inpaint guidance.measurement.mask=top guidance.image=3 count=100
	cp "$$(ls -d $(call newest,digits)/samples/* | tail -1)/figures/posterior.png" outputs/gallery/digits_inpaint.png

# Draw the clothes of docs/benchmarks.md: an hour on two cores.
gallery-fashion: $(VENV)/run
	$(SDEGEN) train experiment=fashion_mnist
	cp $(call newest,fashion_mnist)/figures/samples.png outputs/gallery/fashion_mnist.png

# Draw the errors against training time of docs/benchmarks.md: 25 minutes.
gallery-race: $(VENV)/run
	$(SDEGEN) benchmark time_to_quality
	cp outputs/benchmark/time_to_quality/figure.png outputs/gallery/time_to_quality.png

# Run every experiment of the paper, the quick ones with more seeds, and forecast the cost of the paper's grid of times. The page
# outputs/paper/report.html shows all of it. As many jobs run at once as there are cores.
paper: $(VENV)/parallel
	$(SDEGEN) train sweep=paper $(PARALLEL)
	$(SDEGEN) train sweep=paper/seeds $(PARALLEL)
	$(SDEGEN) sample run=outputs/paper/1-paper_digits sampler=euler_maruyama label=all count=20 \
		guidance=classifier guidance.run=outputs/paper/2-paper_digits_classifier
	$(SDEGEN) train sweep=paper/grid forecast=true
	$(SDEGEN) report outputs/paper

clean:
	rm -rf $(VENV)

$(VENV)/run: pyproject.toml requirements.lock
	$(BASE) -m venv $(VENV)
	$(PIP) install -c requirements.lock -e .
	touch $@

$(VENV)/parallel: $(VENV)/run
	$(PIP) install -c requirements.lock -e '.[parallel]'
	touch $@

$(VENV)/submitit: $(VENV)/run
	$(PIP) install -c requirements.lock -e '.[submitit]'
	touch $@

# Not in the lock, since hydra-ray-launcher asks for an old cloudpickle.
$(VENV)/ray: $(VENV)/run
	$(PIP) install -e '.[ray]'
	touch $@

$(VENV)/docs: $(VENV)/run
	$(PIP) install -c requirements.lock -e '.[docs]'
	touch $@

$(VENV)/dev: $(VENV)/run
	$(PIP) install -c requirements.lock -e '.[dev]'
	touch $@
