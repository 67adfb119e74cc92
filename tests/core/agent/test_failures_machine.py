"""The machine itself fails: suspended, disk full, no file descriptors left. Nobody restarts the agent."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from support.crowd import Crowd, Places, ScriptedCa, Subscriber, Watch, all_in, files_serial, look_once, places, until

pytestmark = pytest.mark.e2e

ONE = "one"
SPARE = 12
"""Descriptors that an agent has left: enough for a renewal, which needs the token, the roots and a connection."""


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def limit(pid: int, which: int, soft: int) -> None:
    """Change a limit of a process that runs; the hard one stays, so that the soft one can be put back."""
    resource.prlimit(pid, which, (soft, resource.prlimit(pid, which)[1]))


def test_suspended_past_a_renewal_and_past_the_end() -> None:
    """A stopped process is what a suspended machine is to the agent: afterwards everything is late at once."""
    short, long = "short", "long"
    with places() as at, ScriptedCa(life=20) as ca, ExitStack() as stack:
        crowds = {name: Crowd({name: at.agent(name, ca)}, at.root / f"{name}.log") for name in (short, long)}
        for crowd in crowds.values():
            stack.enter_context(crowd)
        all_in(at, [short, long], "fresh")
        subscribers = {name: stack.enter_context(Subscriber(at[name].socket)) for name in (short, long)}
        watches = {name: stack.enter_context(Watch({name: at[name].socket})) for name in crowds}
        until(lambda: all(one.pushed for one in subscribers.values()), "the first secret")
        until(lambda: all(watch.of(name) for name, watch in watches.items()), "a look")
        ends = {name: watch.of(name)[-1].not_after for name, watch in watches.items()}
        woken: dict[str, float] = {}
        for crowd in crowds.values():
            os.kill(crowd.pid, signal.SIGSTOP)
        for name, moment in ((short, ends[short] - 8), (long, ends[long] + 0.5)):
            time.sleep(max(0.0, moment - time.time()))  # the suspension itself, not a hope
            os.kill(crowds[name].pid, signal.SIGCONT)
            woken[name] = time.time()
        for name, subscriber in subscribers.items():
            wait_for_push(subscriber, woken[name])
            assert subscriber.status is None, "the stream of before"
        all_in(at, [short, long], "fresh")
        assert [look for look in watches[short].gaps(short) if look.at > woken[short]] == [], (
            "from the first moment awake"
        )
        for name, crowd in crowds.items():
            assert crowd.failures() == [], name


def wait_for_push(subscriber: Subscriber, after: float) -> None:
    sooner = 20  # than at the look that an agent takes at its clock every thirty seconds
    until(lambda: subscriber.pushed[-1][0] > after, "a certificate on the stream", sooner)


def test_a_full_disk_stops_files_and_status_but_no_certificate() -> None:
    """No file may grow: every write to one fails, as on a full disk. `mute` cannot even write its log."""
    told, mute = "told", "mute"
    with places() as at, ScriptedCa(life=16) as ca, ExitStack() as stack:
        configs = {name: at.agent(name, ca) for name in (told, mute)}
        crowds = {name: Crowd({name: configs[name]}, at.root / name / "log", piped=name == told) for name in configs}
        for crowd in crowds.values():
            stack.enter_context(crowd)
        all_in(at, [told, mute], "fresh")
        watch = stack.enter_context(Watch(at.sockets()))
        subscribers = {name: stack.enter_context(Subscriber(at[name].socket)) for name in configs}
        until(lambda: all(at[name].certs.joinpath("..data").exists() for name in configs), "files")
        for crowd in crowds.values():
            limit(crowd.pid, resource.RLIMIT_FSIZE, 0)
        seen = {name: len(subscriber.pushed) for name, subscriber in subscribers.items()}
        until(lambda: all(len(subscribers[name].pushed) > seen[name] for name in configs), "one that finds no room")
        frozen = {name: files_serial(at[name].certs) for name in configs}
        until(lambda: all(len(subscribers[name].pushed) > seen[name] + 1 for name in configs), "certificates go on")
        assert {name: files_serial(at[name].certs) for name in configs} == frozen, "an old pair, but a pair"
        for crowd in crowds.values():
            limit(crowd.pid, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        for name in configs:
            wait_for_caught_up(at, watch, name)
            assert watch.gaps(name) == []
            until(lambda: not half_written(at[name].directory), "nothing half written")  # noqa: B023 - called here
            until(lambda: len(list(at[name].certs.glob("..set-*"))) <= 2, "old sets gone")  # noqa: B023 - as above
            assert crowds[name].failures() == []
        said = [line for line in crowds[told].lines() if line["level"] == "warning"]
        assert said[0]["message"] == "the files could not be written"
        assert "File too large" in said[0]["seen"]
        assert [crowd.stop() for crowd in crowds.values()] == [0, 0]


def half_written(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*.new") if path.name != "token.new"]


def wait_for_caught_up(at: Places, watch: Watch, name: str) -> None:
    until(lambda: files_serial(at[name].certs) == watch.of(name)[-1].serial, "the files are those that are served")
    until(lambda: at.serial(name) == watch.of(name)[-1].serial, "the status says what is served")


def test_without_descriptors_the_connected_are_served_and_the_rest_comes_back() -> None:
    """Somebody beside the workload holds connections until there is no descriptor left, and lets go after a while."""
    with places() as at, ScriptedCa(life=24) as ca, Crowd({ONE: at.agent(ONE, ca)}, at.root / "log") as crowd:
        all_in(at, [ONE], "fresh")
        with Watch(at.sockets()) as watch, Subscriber(at[ONE].socket) as subscriber:
            until(lambda: subscriber.pushed and watch.of(ONE), "the secret")
            limit(crowd.pid, resource.RLIMIT_NOFILE, descriptors(crowd.pid) + SPARE)
            with ExitStack() as greedy:
                for _ in range(5 * SPARE):
                    client = greedy.enter_context(closing(socket.socket(socket.AF_UNIX)))
                    client.connect(str(at[ONE].socket))
                until(crowd.failures, "a renewal that could not be made")
                assert watch.of(ONE)[-1].valid
                during = at.state(ONE)
            first = watch.of(ONE)[-1].serial
            until(lambda: watch.of(ONE)[-1].serial != first, "the next certificate, with the limit as low as before")
            until(lambda: look_once(at[ONE].socket).valid, "somebody new is served")
            assert watch.gaps(ONE) == []
            assert len(subscriber.pushed) == len(set(subscriber.pushed)) >= 2
            assert subscriber.status is None
        all_in(at, [ONE], "fresh")
        line = next(line for line in crowd.lines() if "fault" in line)
        assert during in {"overdue", "fresh"}, "the status file needs a descriptor too"
        assert (line["fault"], line["state"]) == ("machine", "overdue")
        assert "Too many open files" in line["seen"]
        assert "ulimit -n" in line["todo"]
        assert crowd.process.poll() is None
