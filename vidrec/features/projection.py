"""Standardise features and reduce them to principal components."""

from typing import NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.features.ragged import Features


class Projection(NamedTuple):
    """Features standardised and rotated by the training split's statistics.

    Attributes:
        mean: (D,); the projection is `(features - mean) @ matrix`.
        matrix: (D, P).
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Project features (…, D) to float32 (…, P)."""
        return ((values.astype(np.float32) - self.mean) @ self.matrix).astype(np.float32)


def fit_projection(features: Features, train: np.ndarray, components: int) -> Projection:
    """Fit a projection to the frames of the training clips.

    Each feature is centred and scaled to unit variance. The principal components that stay are
    scaled together, by the first one's deviation, so that their ratios stay.

    Args:
        features: of all clips.
        train: indices of the training clips.
        components: how many stay; 0: features are only standardised.

    Raises:
        UserError: more components than features.
    """
    rows = np.concatenate(
        [np.arange(features.lengths[clip]) + features.offsets[clip] for clip in train]
    )
    width = features.values.shape[-1]
    values = np.asarray(features.values[rows], np.float64).reshape(-1, width)
    mean, deviation = values.mean(0), values.std(0)
    # A feature that never changes is set to 0, not divided by nothing.
    varies = deviation > 1e-6 * max(deviation.max(), 1e-12)
    scale = 1 / np.where(varies, deviation, np.inf)
    if not components:
        return Projection(mean.astype(np.float32), np.diag(scale).astype(np.float32))
    if components > width:
        raise UserError(f"encoder.pca = {components} is more than the {width} features there are")
    scaled = (values - mean) * scale
    variances, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    axes = vectors[:, ::-1][:, :components]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(components)])
    matrix = scale[:, None] * axes / np.sqrt(variances[-1])
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))
