"""Arrays of two models in common axes."""

import numpy as np
import pytest

from bridge_core.proof.running.common_axes import best_fit, relative_error

X = np.random.default_rng(0).standard_normal((2, 3, 3, 4))


@pytest.mark.parametrize(
    ("array", "how"),
    [
        (X, ""),
        (X.transpose(0, 3, 1, 2), "channels moved from first to last"),
        (X.reshape(2, 9, 4), "axes merged or split"),
        (X.reshape(2, 1, 3, 3, 4), "without axes of size 1"),
    ],
)
def test_axes_that_hold_the_same(array, how):
    fit = best_fit(X, array, 1e-6)
    assert (fit.error, fit.how) == (0, how)


def test_equal_sizes_do_not_hide_another_order():
    """A square map that is transposed is not equal, as an output; inside a model heads may move."""
    turned = X.transpose(0, 2, 1, 3)
    assert best_fit(X, turned, 1e-6).error > 0.1
    assert best_fit(X, turned, 1e-6, of_channels=False).error == 0
    assert best_fit(X, X.reshape(-1)[::-1].reshape(X.shape), 1e-6, of_channels=False).error > 0.1


def test_shapes_that_never_fit():
    assert best_fit(X, X[:, :2], 1e-6) is None
    assert best_fit(X, X.reshape(4, 18), 1e-6) is None


@pytest.mark.parametrize(
    ("one", "other", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([0.0], [0.0], 0),
        ([0.0], [1.0], np.inf),
        ([np.nan], [np.nan], np.inf),
        ([np.inf, 2], [np.inf, 1], 0.5),
        ([np.inf], [-np.inf], np.inf),
        ([np.inf], [1.0], np.inf),
        ([], [], 0),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_errors(one, other, error):
    assert relative_error(np.array(one), np.array(other)) == error


def test_integers_are_equal_or_not():
    assert relative_error(np.arange(3), np.arange(3)) == 0
    assert relative_error(np.arange(3), np.array([0, 1, 3])) == np.inf


def test_masks_are_compared_by_what_they_hide():
    seen = np.tril(np.ones((3, 3), bool))
    for hidden in (-np.inf, -1e9, np.finfo(np.float32).min):
        fit = best_fit(np.where(seen, 0, hidden), seen, 1e-6, masks=True)
        assert fit.error == 0
    assert best_fit(np.where(seen, 0, -1e9), ~seen, 1e-6, masks=True).error == np.inf
