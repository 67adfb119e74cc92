"""The fuzzer's targets under hypothesis: always here, where libFuzzer (`make fuzz`) may not run."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import fuzz
from support.fuzz_targets import TARGETS, seeds

CHANGES = st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=6)
"""Where, and which byte instead; 0 cuts."""


def test_every_target_is_run_by_name() -> None:
    assert tuple(TARGETS) == fuzz.NAMES


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_seeds_and_what_is_near_them(name: str) -> None:
    target, known = TARGETS[name], seeds(name)
    for seed in known:
        target(seed)

    @settings(max_examples=300, deadline=None, database=None)
    @given(
        st.sampled_from(range(len(known))), st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=6)
    )
    @example(0, [])
    def mutate(which: int, changes: list[tuple[int, int]]) -> None:
        data = bytearray(known[which])
        for at, value in changes:
            if value == 0:
                del data[at % (len(data) + 1) :]
            elif data:
                data[at % len(data)] = value
        target(bytes(data))

    mutate()


@pytest.mark.parametrize("name", fuzz.NAMES)
@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=600))
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
