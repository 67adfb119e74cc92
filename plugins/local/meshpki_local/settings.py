"""What an operator may choose about a local installation, checked; what is not said stays as installed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Never, TypeVar

from meshpki.errors import InvalidValueError, UsageError
from meshpki.hooks import Mode, Option, OptionKind
from meshpki.identity import ServiceAccountRef, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.hooks import Params, Value

_T = TypeVar("_T")

CLUSTER: Final = "local"
ISSUER: Final = "https://local.meshpki.internal"
AUDIENCE: Final = "istio-ca"
SERVER_NAME: Final = "localhost"
DEFAULT_WORKLOADS: Final = (ServiceAccountRef("default", "client"), ServiceAccountRef("default", "server"))
KUBERNETES_MINIMUM: Final = 600
"""The shortest token life that a Kubernetes API server grants, in seconds; shorter ones here are for demos."""
_LIMITS: Final = {"certificate-ttl": (10, 90 * 86400), "token-ttl": (10, 86400)}
RENEWAL_SECONDS: Final = 86400
"""For so long a workload may renew by certificate after its last token; longer where certificates live longer."""
_LONGEST_BOUND: Final = 90 * 86400
"""The CA's own limit for it."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,7})([smhd])", re.ASCII)


class Agents(StrEnum):
    """Where the agent is: beside each workload, or once for all of them, as on a node of old."""

    WORKLOAD = "workload"
    NODE = "node"


OPTIONS: Final = (
    Option(
        "workload",
        OptionKind.LIST,
        "A workload that gets an identity; repeat for more. It is the whole set: one left out is removed. "
        "[default: as installed, else default/client and default/server]",
        (),
        "NAMESPACE/SERVICEACCOUNT",
    ),
    Option(
        "trust-domain",
        OptionKind.TEXT,
        "Trust domain of all identities. [default: as installed, else mesh.local]",
        "",
        "NAME",
    ),
    Option("ca-port", OptionKind.INTEGER, "Port of the CA; 0 keeps the installed one, else takes a free one.", 0),
    Option(
        "certificate-ttl",
        OptionKind.TEXT,
        "Life of a workload's certificate, such as 30m. [default: as installed, else 1h]",
        "",
        "DURATION",
    ),
    Option(
        "token-ttl",
        OptionKind.TEXT,
        "Life of a workload's token. Kubernetes grants 10m or more; less is for demos. "
        "[default: as installed, else 1h]",
        "",
        "DURATION",
    ),
    Option(
        "agent",
        OptionKind.TEXT,
        "`workload`: an agent for each, with a socket and files of its own. `node`: one agent and one socket for all; "
        "each Envoy shows it the workload's token. [default: as installed, else workload]",
        "",
        "PLACE",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """An installation as it is wanted. Times are seconds; `ca_port` 0 means the installed port or a free one."""

    trust_domain: str = "mesh.local"
    mode: Mode = Mode.SDS
    ca_port: int = 0
    certificate_ttl: int = 3600
    token_ttl: int = 3600
    workloads: tuple[ServiceAccountRef, ...] = DEFAULT_WORKLOADS
    agent: Agents = Agents.WORKLOAD

    def params(self, *names: str) -> Params:
        """As a change's parameters: pure data, in a fixed order; all, or those that are named."""
        everything: dict[str, Value] = {
            "trust_domain": self.trust_domain,
            "mode": self.mode.value,
            "ca_port": self.ca_port,
            "certificate_ttl": self.certificate_ttl,
            "token_ttl": self.token_ttl,
            "workloads": tuple(str(account) for account in self.workloads),
            "agent": self.agent.value,
        }
        return {name: everything[name] for name in names or everything}

    @classmethod
    def from_params(cls, params: Params) -> Settings:
        """Read `params` back out of a plan, what is not named as its default. Raises UsageError, InvalidValueError."""
        complete = {**cls().params(), **params}
        mode = _text(complete, "mode")
        if mode not in set(Mode):
            raise UsageError(f"mode {mode[:40]!r} in the plan", wanted=f"one of {', '.join(Mode)}")
        return cls(
            trust_domain=TrustDomain(_text(complete, "trust_domain")).name,
            mode=Mode(mode),
            ca_port=_port(_integer(complete, "ca_port")),
            certificate_ttl=_bounded("certificate-ttl", _integer(complete, "certificate_ttl")),
            token_ttl=_bounded("token-ttl", _integer(complete, "token_ttl")),
            workloads=workload_set(_texts(complete, "workloads")),
            agent=_agents(_text(complete, "agent")),
        )


def settle(options: Params, mode: Mode, installed: Settings | None) -> Settings:
    """The operator's options over what is installed over the defaults. Raises UsageError, which names the option.

    The port of an installation is kept in its ca.yaml; 0 stands for it, so that it need not be chosen to plan.
    """
    wanted = replace(installed or Settings(), mode=mode, ca_port=_port(_integer(options, "ca-port", 0)))
    if accounts := _texts(options, "workload"):
        wanted = replace(wanted, workloads=_asked_workloads(accounts))
    if domain := _text(options, "trust-domain", ""):
        wanted = replace(wanted, trust_domain=_asked("trust-domain", domain, TrustDomain).name)
    if life := _text(options, "certificate-ttl", ""):
        seconds = _asked("certificate-ttl", life, parse_duration)
        wanted = replace(wanted, certificate_ttl=_bounded("certificate-ttl", seconds))
    if life := _text(options, "token-ttl", ""):
        wanted = replace(wanted, token_ttl=_bounded("token-ttl", _asked("token-ttl", life, parse_duration)))
    if place := _text(options, "agent", ""):
        wanted = replace(wanted, agent=_agents(place))
    if wanted.agent is Agents.NODE and mode is not Mode.SDS:
        raise UsageError(f"--agent node in mode {mode.value}", wanted="mode sds: a node's agent serves no files")
    return wanted


def _asked_workloads(texts: tuple[str, ...]) -> tuple[ServiceAccountRef, ...]:
    for text in texts:
        _asked("workload", text, ServiceAccountRef.parse)
    return workload_set(texts)


def _asked(option: str, text: str, read: Callable[[str], _T]) -> _T:
    """Read an option's text: a value that cannot be is a mistake of the command line, which has to be found there."""
    try:
        return read(text)
    except InvalidValueError as error:
        raise UsageError(f"--{option} {text[:80]!r}: {error.seen}", wanted=error.wanted, todo=error.todo) from error


def renewal_bound(settings: Settings) -> int:
    """For how many seconds after its last token a workload may renew by certificate; 0 where it may not.

    It may not where a certificate lives for as long as the CA lets anybody go without a token.
    """
    bound = min(max(RENEWAL_SECONDS, 2 * settings.certificate_ttl), _LONGEST_BOUND)
    return bound if bound > settings.certificate_ttl else 0


def _agents(text: str) -> Agents:
    if text not in set(Agents):
        raise UsageError(f"--agent {text[:40]!r}", wanted=f"one of {', '.join(Agents)}")
    return Agents(text)


def workload_set(texts: tuple[str, ...]) -> tuple[ServiceAccountRef, ...]:
    """Parse, sort, and drop repetitions, so that the order on a command line changes no plan."""
    return tuple(sorted({ServiceAccountRef.parse(text) for text in texts}))


def parse_duration(text: str) -> int:
    """Read `90s`, `30m`, `12h` or `7d` as seconds. Raises InvalidValueError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise InvalidValueError(f"duration {text[:40]!r}", wanted="a number and a unit s, m, h or d, such as 30m")
    return int(found[1]) * _UNITS[found[2]]


def show_duration(seconds: int) -> str:
    """Write seconds in the largest unit that leaves no rest."""
    unit = next(name for name, size in reversed(_UNITS.items()) if seconds % size == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def show_count(number: int, noun: str) -> str:
    """Write `1 agent`, `2 agents`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bounded(name: str, seconds: int) -> int:
    lowest, highest = _LIMITS[name]
    if not lowest <= seconds <= highest:
        raise UsageError(
            f"--{name} {show_duration(seconds)}",
            wanted=f"{show_duration(lowest)} to {show_duration(highest)}",
        )
    return seconds


def _port(number: int) -> int:
    if not 0 <= number <= 65535:
        raise UsageError(f"--ca-port {number}", wanted="1 to 65535, or 0 for a free one")
    return number


def _text(params: Params, name: str, default: str | None = None) -> str:
    value = params.get(name, default)
    return value if isinstance(value, str) else _wrong(name, value, "text")


def _integer(params: Params, name: str, default: int | None = None) -> int:
    value = params.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else _wrong(name, value, "a number")


def _texts(params: Params, name: str) -> tuple[str, ...]:
    value = params.get(name, ())
    return value if isinstance(value, tuple) else _wrong(name, value, "a list of texts")


def _wrong(name: str, value: Value | None, wanted: str) -> Never:
    raise UsageError(f"{name} is {value!r}", wanted=wanted)
