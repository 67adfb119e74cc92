"""Kills an effect before each of its touches of the file system in turn, and looks whether it can be gone on with.

    python killed_effects.py EFFECT DIRECTORY

For each touch: a fork applies the effect to a new state directory and is killed there by SIGKILL. Then once the effect
is applied again and must be done, and once it is undone and must leave nothing. Prints the number of touches.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.hooks import EffectState
from meshpki_local.effects.ca_config import CaConfig
from meshpki_local.effects.ca_material import CaMaterial
from meshpki_local.effects.token_issuer import TokenIssuer
from meshpki_local.effects.workloads import Workloads
from meshpki_local.layout import Layout
from meshpki_local.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.hooks import Effect

EFFECTS: dict[str, Callable[[Layout], Effect]] = {
    "token_issuer": TokenIssuer,
    "ca_material": lambda layout: CaMaterial(layout, "mesh.local"),
    "ca_config": lambda layout: CaConfig(layout, Settings()),
    "workloads": lambda layout: Workloads(layout, Settings()),
}
TOUCHES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "open"})


def killed_at(number: int, effect: Effect, state: Path) -> bool:
    """Apply in a fork that dies before touch `number`; False if it came to its end."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in TOUCHES and str(state) in str(arguments[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        effect.apply(lambda _: None)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"touch {number}: status {status}"
    return os.WIFSIGNALED(status)


def broken_off(name: str, directory: Path, number: int, case: str) -> bool:
    """One kill, and what comes after it; False if there was no such touch."""
    state = directory / f"{case}-{number}"
    state.mkdir(mode=0o700)
    effect = EFFECTS[name](Layout(state))
    record = effect.undo_record()
    killed = killed_at(number, effect, state)
    seen = effect.observe()
    assert seen.state is not EffectState.FOREIGN, f"touch {number}: {seen.detail}"
    if case == "again":
        effect.apply(lambda _: None)
        effect.gate(lambda _: None)
        assert effect.observe().state is EffectState.DONE, f"touch {number}: {effect.observe()}"
        assert not list(state.glob("tokens/.*key*")), f"touch {number}: a half-written key is left"
    effect.undo(record, lambda _: None)
    left = [str(path) for path in state.rglob("*")]
    assert not left, f"touch {number}, {case}: left {left}"
    return killed


if __name__ == "__main__":
    count = 0
    while all(broken_off(sys.argv[1], Path(sys.argv[2]), count + 1, case) for case in ("again", "undone")):
        count += 1
    print(count)
