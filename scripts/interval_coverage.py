"""How often 95 % intervals over few seeds hold the mean, and how often sign flips mark differences whose mean is 0.

python scripts/interval_coverage.py --simulations 2000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from testbed.statistics import Interval, guaranteed, over_seeds, sign_flips

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
SEEDS = (3, 5, 8)
PAIRS = (6, 8, 10)
RESAMPLES = 999


class Population(NamedTuple):
    """Numbers in 0..1 of a known mean, as success or accuracy over seeds could be."""

    mean: float
    draw: Draw


class Coverage(NamedTuple):
    """The share of simulations whose interval held the mean, their number, and the mean width."""

    share: float
    simulations: int
    width: float


def mixture(low: float, high: float, share: float, noise: float) -> Population:
    """Around `high` in this share of seeds and around `low` in the others, up to `noise` off."""

    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        centre = np.where(generator.random(shape) < share, high, low)
        return centre + noise * generator.uniform(-1, 1, shape)

    return Population(share * high + (1 - share) * low, draw)


def bent(a: float, b: float) -> Population:
    """Beta(a, b)."""
    return Population(a / (a + b), lambda generator, shape: generator.beta(a, b, shape))


POPULATIONS: Mapping[str, Population] = {
    "bell-shaped: beta(60, 40)": bent(60, 40),
    "skewed: beta(0.8, 3.2)": bent(0.8, 3.2),
    "near the ceiling: beta(60, 1)": bent(60, 1),
    "bimodal: 0.9 in 7 of 10, else 0.1": mixture(0.1, 0.9, 0.7, 0.05),
    "points: 1 in 9 of 10, else 0": mixture(0.0, 1.0, 0.9, 0.0),
}


def bootstrapped(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of percentile intervals of the mean, (simulations,) each; `samples` are (simulations, n)."""
    found = stats.bootstrap((samples,), np.mean, axis=1, n_resamples=RESAMPLES, method="percentile", random_state=0)
    return found.confidence_interval.low, found.confidence_interval.high


def each(interval: Callable[[Sequence[float]], Interval]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The same for an interval of one sample."""

    def ends(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [interval(sample) for sample in samples]
        return np.array([one.low for one in found]), np.array([one.high for one in found])

    return ends


METHODS = {"bootstrap": bootstrapped, "Student": each(over_seeds), "guaranteed": each(guaranteed)}


def simulate(method: str, population: Population, seeds: int, simulations: int) -> Coverage:
    """The coverage of a method over samples of so many seeds: the same samples for every method."""
    samples = np.clip(population.draw(np.random.default_rng(seeds), (simulations, seeds)), 0, 1)
    low, high = METHODS[method](samples)
    held = (low <= population.mean + 1e-12) & (population.mean - 1e-12 <= high)
    return Coverage(float(held.mean()), simulations, float((high - low).mean()))


def table(simulations: int) -> str:
    """Markdown: a row a population and number of seeds, coverage and mean width by method."""
    head = ["population", "seeds", *(f"{method}: coverage (width)" for method in METHODS)]
    lines = [head, ["---"] * len(head)]
    for name, population in POPULATIONS.items():
        for seeds in SEEDS:
            found = [simulate(method, population, seeds, simulations) for method in METHODS]
            lines.append([name, str(seeds), *(f"{one.share:.3f} ({one.width:.2f})" for one in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shifted(population: Population) -> Population:
    """The same less its mean: differences whose mean is 0."""
    return Population(0.0, lambda generator, shape: population.draw(generator, shape) - population.mean)


DIFFERENCES: Mapping[str, Population] = {
    "symmetric: normal, 0 ± 0.1": Population(0.0, lambda generator, shape: generator.normal(0, 0.1, shape)),
    "symmetric: 0.4 or -0.4, each in half of the pairs": shifted(mixture(0.1, 0.9, 0.5, 0.0)),
    "asymmetric: 0.1 in 9 of 10 pairs, else -0.9": shifted(mixture(0.0, 1.0, 0.9, 0.0)),
    "asymmetric: beta(0.8, 3.2) less its mean": shifted(bent(0.8, 3.2)),
}
"""Paired differences whose mean is 0: who is marked here is marked wrongly, as far as the mean is meant."""


def marked(population: Population, pairs: int, simulations: int) -> float:
    """The share of samples of so many pairs of which p by sign flips is below 0.05."""
    samples = population.draw(np.random.default_rng(pairs), (simulations, pairs))
    p_values = [sign_flips(sample) for sample in samples]
    return float(np.mean([p is not None and p < 0.05 for p in p_values]))


def flips(simulations: int) -> str:
    """Markdown: a row a population of differences of mean 0, by pairs the share that is marked."""
    head = ["differences of mean 0", *(f"{pairs} pairs" for pairs in PAIRS)]
    lines = [head, ["---"] * len(head)]
    for name, population in DIFFERENCES.items():
        lines.append([name, *(f"{marked(population, pairs, simulations):.3f}" for pairs in PAIRS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=2000, help="samples of each population (default 2000)")
    simulations = parser.parse_args().simulations
    error = np.sqrt(0.95 * 0.05 / simulations)
    print(f"n = {simulations} simulations a cell; the standard error of a coverage of 0.95 is {error:.3f}\n")
    print(table(simulations))
    print(f"\nthe share of {simulations} samples with p below 0.05 by sign flips\n")
    print(flips(simulations))


if __name__ == "__main__":
    main()
