"""What a few labelled images gain: zero-shot, calibrated, fitted with 1, 4 and 16 of each label.

    python -m tests.benchmarks.few_shot TRAIN CALIBRATION TEST [--model starter] [--seeds 5]

Three labelled data sets, each as `load_data` takes it. Images are encoded once. Intervals are
bootstrapped over the test images, of fits over the mean of all seeds.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.calibration import expected_calibration_error
from clipkit.data import load_data
from clipkit.encode import encode_images
from clipkit.evaluate import bootstrap
from clipkit.models import DualEncoder, load

EXAMPLES = (1, 4, 16)


def encoded(model: DualEncoder, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of a data set's images, and their labels."""
    loaded = load_data(data)
    features, rows, _ = encode_images(model, (sample.image for sample in loaded))
    return features.numpy(), np.array([loaded[row].label for row in rows])


def interval(right: np.ndarray) -> str:
    """Return a mean and its 95 % interval in words."""
    column = torch.from_numpy(right).double()[:, None]
    low, high = bootstrap.interval(bootstrap.resampled_ratios(column, column * 0 + 1)[:, 0])
    return f"{100 * right.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Fit and score."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    model = load(options.model)
    (images, truth), held_out, (test, answers) = (encoded(model, name) for name in options.data)
    labels = sorted(set(answers))
    classifier = ZeroShotClassifier(model, labels)
    columns = torch.tensor([labels.index(label) for label in answers])

    def error() -> float:
        proba = torch.from_numpy(classifier.predict_proba(test))
        return 100 * expected_calibration_error(proba, columns)

    out = sys.stdout.write
    out(f"{len(test)} images, {len(labels)} labels\n")
    out(f"zero-shot: {interval(classifier.predict(test) == answers)}\n")
    before = error()
    found = classifier.calibrate(*held_out)
    out(
        f"calibrated on {found.images}: temperature {found.temperature.value:.2f}, calibration"
        f" error {before:.1f} -> {error():.1f} % on the test images\n"
    )
    for count in EXAMPLES:
        right, methods = [], []
        for seed in range(options.seeds):
            rng = np.random.default_rng(seed)
            rows = [rng.choice(np.flatnonzero(truth == label), count, False) for label in labels]
            some = np.concatenate(rows)
            fitted = ZeroShotClassifier(model, labels).fit(images[some], truth[some])
            right.append(fitted.predict(test) == answers)
            methods.append(fitted.few_shot_.choice.method if fitted.few_shot_ else "")
        spread = [f"{100 * one.mean():.1f}" for one in right]
        out(f"fitted on {count} of each: {interval(np.mean(right, 0))}")
        out(f" of seeds {' '.join(spread)}; {' '.join(methods)}\n")


if __name__ == "__main__":
    main()
