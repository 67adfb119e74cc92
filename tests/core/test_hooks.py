"""The contract with plugins: complete, documented, frozen, and light."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

from meshpki import hooks

RECORDS = [
    value for value in vars(hooks).values() if dataclasses.is_dataclass(value) and value.__module__ == hooks.__name__
]


@pytest.mark.parametrize("hook", hooks.HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_says_what_it_may_do_and_since_when(hook: object) -> None:
    words = inspect.getdoc(hook) or ""
    assert "Since API version" in words
    assert len(words) > 100


def test_every_public_function_is_a_hook() -> None:
    functions = {
        name
        for name, value in vars(hooks).items()
        if inspect.isfunction(value) and value.__module__ == hooks.__name__ and not name.startswith("_")
    }
    assert functions == {hook.__name__ for hook in hooks.HOOKS}


@pytest.mark.parametrize("hook", hooks.HOOKS, ids=lambda hook: hook.__name__)
def test_calling_a_specification_is_a_mistake(hook: object) -> None:
    assert callable(hook)
    count = len(inspect.signature(hook).parameters)
    with pytest.raises(NotImplementedError):
        hook(*[None] * count)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_record_is_frozen_has_slots_and_a_docstring(record: type) -> None:
    parameters = record.__dataclass_params__  # type: ignore[attr-defined]  # of every dataclass
    assert parameters.frozen
    assert "__slots__" in vars(record)
    assert not (record.__doc__ or "").startswith(f"{record.__name__}(")


def test_modes_stand_highest_first() -> None:
    assert list(hooks.Mode) == [hooks.Mode.POD_CERTIFICATE, hooks.Mode.SDS, hooks.Mode.FILE_MOUNT]


def test_the_contract_imports_only_types() -> None:
    program = "import sys, meshpki.hooks\nprint(sorted(name for name in sys.modules if name.startswith('meshpki')))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['meshpki', 'meshpki.health', 'meshpki.hooks']"
