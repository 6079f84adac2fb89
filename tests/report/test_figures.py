import itertools

import numpy as np

from vidrec.report import figures


def test_names_beside_points_are_apart_and_near():
    rng = np.random.default_rng(0)
    for count in (1, 2, 9, 40):
        wanted = sorted(rng.uniform(-0.2, 1.2, count))
        places = figures.spread(wanted)
        assert all(-1e-9 <= at <= 1 + 1e-9 for at in places)
        assert all(b - a >= 1 / count - 1e-9 for a, b in itertools.pairwise(places))
    assert figures.spread([0.1, 0.5, 0.9]) == [0.1, 0.5, 0.9]  # what is apart stays
    assert figures.spread([]) == []
