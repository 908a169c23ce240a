"""Plot the training curves of the students (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distill_utils.plots.style import COLOURS, LINES, MARKERS, WIDTH, new_figure, styled


@styled
def training_curves(logs: Mapping[str, Sequence[Mapping]]) -> tuple[Figure, str]:
    """Draw training losses, validation loss and validation ROUGE-L over steps, per method.

    Args:
        logs: the Trainer's log history of each method.
    """
    figure, (training, loss, rouge) = new_figure(2.5, columns=3, width=2 * WIDTH)
    final = {}
    for i, (name, log) in enumerate(logs.items()):
        steps = [e["step"] for e in log if "hard_loss" in e]
        training.plot(
            steps,
            [e["hard_loss"] for e in log if "hard_loss" in e],
            LINES[i % 4],
            color=COLOURS[i % 5],
            label=f"{name}: hard",
        )
        soft = [e["soft_loss"] for e in log if "hard_loss" in e]
        if any(soft):
            training.plot(steps, soft, ":", color=COLOURS[i % 5], label=f"{name}: soft")
        evaluations = [e for e in log if "eval_rougeL" in e]
        x = [e["step"] for e in evaluations]
        settings = {"color": COLOURS[i % 5], "marker": MARKERS[i % 12], "label": name, "linestyle": LINES[i % 4]}
        loss.plot(x, [e["eval_loss"] for e in evaluations], **settings)
        rouge.plot(x, [e["eval_rougeL"] for e in evaluations], **settings)
        if evaluations:
            final[name] = evaluations[-1]
    for axis, label in (
        (training, "training loss (nats/token)"),
        (loss, "validation loss (nats/token)"),
        (rouge, "validation ROUGE-L (points)"),
    ):
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if axis.has_data():  # above the panel, where no curve runs
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    if not final:
        return figure, "Training losses over steps; there was no validation."
    ends = "; ".join(
        f"{name} ends at loss {e['eval_loss']:.2f} and ROUGE-L {e['eval_rougeL']:.1f}" for name, e in final.items()
    )
    return (
        figure,
        f"Training and validation over steps. On the validation split, {ends}. The validation loss is the cross-entropy with the references for every method; the training loss jumps because a batch holds pairs of similar length.",
    )
