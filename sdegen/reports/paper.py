"""The experiments of the paper as the report tells them: captions, settings as printed, and what was read into it.

Captions are the paper's own, in Portuguese; what is in English is ours. A run is one of the paper's where its name and
its settings are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Picture(NamedTuple):
    """A figure of the paper.

    Attributes:
        number: as printed; empty where the paper has none.
        file: the figure of the run that stands for it.
        caption: as printed.
        shows: what ours shows, in English.
    """

    number: str
    file: str
    caption: str
    shows: str


class Experiment(NamedTuple):
    """An experiment of the paper.

    Attributes:
        title: what it is.
        section: where it is.
        command: runs it.
        pictures: its figures.
        settings: what makes a run this experiment, as the paper says or by a reading, as options by their paths.
        readings: where the paper is silent or ambiguous, and what was chosen.
    """

    title: str
    section: str
    command: str
    pictures: tuple[Picture, ...]
    settings: Mapping[str, str]
    readings: tuple[str, ...]


TIME = (
    "The paper takes a grid of times, at each of which every point of a batch meets many noises. Here t is "
    "continuous, one uniform draw in each of as many equal slices as a step has rows: for the λ used here the expected "
    "gradient of a fine grid, at a small part of its cost."
)
OUTPUT = (
    "Whether the network's output is divided by σ_t is not said. It is: the network predicts −noise "
    "(parametrization=noise)."
)
CONCATENATED = "The multilayer perceptron takes (x, t) as one vector; the paper does not say how t enters."
LAMBDA = (
    "Which λ was used is not said. It is the one the paper recommends, λ ∝ 1/E‖∇log p‖², which is σ_t² "
    "(weighting=variance)."
)
EPSILON = "ε is 10⁻⁵, of the two values that the paper names, in training and in sampling."

PROCESS = {"sde": "vp", "sde.beta_min": "0.1", "sde.beta_max": "20.0", "sde.eps": "1e-05"}
COMMON = {"parametrization": "noise", "weighting": "variance", "times": "stratified", "trainer.steps": "None"}
COMMON |= {"trainer.clip": "None", "trainer.ema": "0.0", "count": "2000"}
RK45 = {"sampler": "rk45", "sampler.rtol": "1e-05", "sampler.atol": "1e-05", "sampler.denoise": "False"}
EULER = {"sampler": "euler_maruyama", "sampler.steps": "1000", "sampler.grid": "uniform", "sampler.denoise": "False"}
MIXTURE = {"dataset": "mixture", "dataset.size": "5000", "dataset.standardize": "False"}
POINTS = {
    **PROCESS,
    **COMMON,
    "times.draws": "1",
    "network": "mlp",
    "network.activation": "relu",
    "network.time_embedding": "concat",
    "optimizer": "adam",
    "optimizer.lr": "0.0001",
    "trainer.batch_size": "64",
}
SMILE = {
    **POINTS,
    **RK45,
    "dataset": "smile",
    "dataset.size": "400",
    "dataset.standardize": "False",
    "network.hidden": "[128, 128]",
    "trainer.epochs": "7000",
}
FLOW = "The flow ODE is solved by SciPy's RK45 with rtol = atol = 1e-5, from t = 1 to ε, without a last denoising step."

EXPERIMENTS = {
    "paper_process": Experiment(
        "The process",
        "sections 1 and 2",
        "python scripts/train.py experiment=paper/process",
        (
            Picture(
                "1",
                "process",
                "Funcionamento do processo de difusão com a SDE.",
                "The density p_t of the paper's mixture over time, and over it paths of the forward SDE, of the "
                "reverse SDE, and of the flow ODE, by the exact score.",
            ),
            Picture(
                "2",
                "score_field",
                "Visão geral da modelagem generativa com SDEs.",
                "What drives the reverse process: the exact score ∇log p_t(x) over x and t.",
            ),
        ),
        {**PROCESS, **MIXTURE, **EULER, "network": "oracle"},
        ("The paper draws its figures 1 and 2 as sketches; here they are computed, on the mixture of section 5.1.",),
    ),
    "paper_gaussian_mixture": Experiment(
        "Mixture of Gaussians",
        "section 5.1",
        "python scripts/train.py experiment=paper/gaussian_mixture",
        (
            Picture(
                "3",
                "samples",
                "Mistura de Gaussianas",
                "5000 training points (left, 3a) and samples of the reverse SDE (right, 3b), with the exact density.",
            ),
        ),
        {
            **POINTS,
            **MIXTURE,
            **EULER,
            "network.hidden": "[128]",
            "trainer.epochs": "300",
        },
        (
            "In N(−3, 1/4), 1/4 is the variance: the paper writes “desvio padrão” where it means a standard deviation.",
            TIME,
            OUTPUT,
            LAMBDA,
            CONCATENATED,
            "The number of steps of Euler–Maruyama is not said: 1000.",
            EPSILON,
        ),
    ),
    "paper_smile": Experiment(
        "Smile",
        "section 5.2",
        "python scripts/train.py experiment=paper/smile",
        (
            Picture(
                "4",
                "samples",
                "Dados do sorriso",
                "400 training points (left, 4a) and samples of the flow ODE (right, 4b).",
            ),
        ),
        {**SMILE, "dataset.noise": "0.0"},
        (
            "A standard deviation of 0.02 of the eyes is of each coordinate, independently.",
            TIME,
            OUTPUT,
            LAMBDA,
            CONCATENATED,
            EPSILON + " The eyes need no more than that.",
            FLOW,
            "The mouth is a curve and has no density, so that no likelihood is given.",
        ),
    ),
    "paper_smile_noisy": Experiment(
        "Smile with noise",
        "appendix E",
        "python scripts/train.py experiment=paper/smile_noisy",
        (
            Picture(
                "8",
                "samples",
                "Dados do sorriso com ruído",
                "400 training points, the mouth with noise (left, 8a), and samples of the flow ODE (right, 8b).",
            ),
        ),
        {**SMILE, "dataset.noise": "0.02"},
        (
            "Network, training and sampler are those of the smile: appendix E names no other.",
            "The noise is added to the mouth alone, to each coordinate, as the text says.",
        ),
    ),
    "paper_digits": Experiment(
        "Handwritten digits",
        "section 5.3",
        "python scripts/train.py experiment=paper/digits",
        (
            Picture(
                "5 and 6",
                "samples",
                "Amostra de números escritos a mão. Amostra gerada de números escritos a mão.",
                "Training images (left, 5) and samples of the flow ODE (right, 6).",
            ),
            Picture(
                "7",
                "generation",
                "Passo da SDE reversa em uma geração.",
                "Four images on their way from noise to data. The paper's caption says reverse SDE; its text samples "
                "by the flow ODE, as is done here.",
            ),
            Picture(
                "9",
                "classes",
                "Geração condicional a label do conjunto de dados.",
                "Digits of each class that was asked for, by the reverse SDE guided by the classifier of appendix F.",
            ),
        ),
        {
            **PROCESS,
            **COMMON,
            **RK45,
            "dataset": "digits",
            "network": "score_net",
            "network.embedding": "256",
            "times.draws": "10",
            "optimizer": "adam",
            "optimizer.lr": "0.0001",
            "trainer.batch_size": "4",
            "trainer.epochs": "15",
        },
        (
            "“Seven convolutions interleaved with dense”: an encoder and a decoder with group normalisation and skips, "
            "a dense layer adding the embedding of the time after each convolution; padded, so that 8 × 8 does not "
            "vanish.",
            "Pixels 0 … 16 are scaled to [−1, 1]; a fifth of the images is held out for the measures.",
            "Neither SDE, optimiser, learning rate nor λ is said for the digits: VP, Adam, 10⁻⁴ and σ_t², as of the "
            "other experiments.",
            TIME + " Ten times for each image at a step, as the paper's ten noises.",
            OUTPUT,
            EPSILON,
            FLOW,
        ),
    ),
    "paper_digits_classifier": Experiment(
        "Classifier of noisy digits",
        "appendix F",
        "python scripts/train.py experiment=paper/digits_classifier",
        (Picture("", "accuracy", "", "How many noisy digits it knows at each time. It is what steers figure 9."),),
        {
            **PROCESS,
            "dataset": "digits",
            "network": "classifier_mlp",
            "network.hidden": "[128, 128]",
            "objective": "classification",
            "weighting": "uniform",
            "trainer.epochs": "300",
            "trainer.batch_size": "64",
        },
        (
            "Epochs, batch, optimiser and SDE of the classifier are not said: 300, 64, Adam at 10⁻³ with the "
            "gradient's norm cut at 1 and a moving average of the weights (0.999), and VP.",
            "The cross entropy is a mean over t, each t with the same weight.",
            "The guidance scale is not said: Bayes' rule has 1.",
        ),
    ),
}
