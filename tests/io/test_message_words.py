"""Numbers and lists of names in messages."""

import doctest

from vidrec.io import words


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(words)
    assert result.attempted >= 3
    assert result.failed == 0
