"""Files of strangers, changed at random: read, or refused in words, in bounded time and memory."""

import pytest
from hypothesis import given, settings

from tests.support.fuzz import CHANGES, QUIET, Fuzzer
from tests.support.fuzz_targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_stands_in_a_file_is_read_or_refused(name, tmp_path):
    fuzzer = Fuzzer(name, tmp_path)

    @settings(QUIET, max_examples=10, derandomize=True)
    @given(CHANGES)
    def attempt(changes):
        fuzzer.attempt(changes)

    attempt()
