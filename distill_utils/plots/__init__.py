"""Plot a study's results: a figure and its caption, computed from the same data."""

from distill_utils.plots.corpus import lengths, novelty, packages, similarities
from distill_utils.plots.evidence import budgets, learning_curve, reliability, sweep, wins_and_losses
from distill_utils.plots.style import save, save_in
from distill_utils.plots.teacher import rouge_bars, rouge_by_group, system_bars, temperatures
from distill_utils.plots.tradeoff import batches_and_beams, frontier, quality, runtimes, speed_quality, unbeaten
from distill_utils.plots.training import training_curves

__all__ = [
    "batches_and_beams",
    "budgets",
    "frontier",
    "learning_curve",
    "lengths",
    "novelty",
    "packages",
    "quality",
    "reliability",
    "rouge_bars",
    "rouge_by_group",
    "runtimes",
    "save",
    "save_in",
    "similarities",
    "speed_quality",
    "sweep",
    "system_bars",
    "temperatures",
    "training_curves",
    "unbeaten",
    "wins_and_losses",
]
