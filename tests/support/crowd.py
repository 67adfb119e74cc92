"""Many agents in one process of their own, each in its own directory: a matrix of faults waits once, not once each.

Their log is one file; every line says whose it is. What each is served is looked at by a thread, as Envoy would.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from prometheus_client.parser import text_string_to_metric_families

from meshpki.wire import methods
from support.agent_process import PATIENCE, AgentFiles
from support.fake_ca import SERVER_NAME, SPIFFE_ID, FakeCa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from prometheus_client.samples import Sample

    from meshpki.agent.process.config import AgentConfig
    from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse

LOOK_SECONDS = 30.0
"""After which a look at a socket is given up: an agent that does not answer, and not one that has to wait its turn."""
_MAIN = """
import asyncio, base64, contextvars, logging, pickle, signal, sys
from meshpki.agent.renewal import keeper
from meshpki.agent.pod import run
from meshpki.runtime import logs
from meshpki.errors import MeshpkiError

configs, longest_sleep = pickle.loads(base64.b64decode(sys.argv[1]))
if longest_sleep is not None:
    keeper.LONGEST_SLEEP_SECONDS = longest_sleep
whose = contextvars.ContextVar("whose", default="")
make = logging.getLogRecordFactory()

def record(*args, **kwargs):
    made = make(*args, **kwargs)
    made.agent = whose.get()
    return made

logging.setLogRecordFactory(record)
logs.configure("info")

async def one(name, config, stopping):
    whose.set(name)
    await run.Agent(config, chance=lambda: 0.5).run(stopping)

async def main():
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await asyncio.gather(*(one(name, config, stopping) for name, config in configs.items()))

try:
    asyncio.run(main())
except MeshpkiError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Crowd:
    """Agents by name in one process. Renewals come at exactly half of a life: no jitter."""

    def __init__(
        self,
        configs: Mapping[str, AgentConfig],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        longest_sleep: float | None = None,
        piped: bool = False,
    ) -> None:
        """Prepare; `piped`: its log goes through a pipe, so that no limit on its files cuts the log off."""
        self._argument = base64.b64encode(pickle.dumps((dict(configs), longest_sleep))).decode()
        self._environment = {**os.environ, **(environment or {})}
        self._log = log
        self._piped = piped
        self.process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, self._argument],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._piped else log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        if self._piped:
            threading.Thread(target=self._copy, name="log").start()
        return self

    def _copy(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as source, self._log.open("ab", buffering=0) as log:
            for line in source:
                log.write(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Ask it to end; gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(PATIENCE)

    def lines(self, name: str | None = None) -> list[dict[str, Any]]:  # Any: JSON, looked at in assertions
        """What the agent of that name has logged, whole lines only."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                if name is None or entry.get("agent") == name:
                    found.append(entry)
        return found

    def failures(self, name: str | None = None) -> list[str]:
        """`kind/reason` of each reported failure, in order."""
        return [f"{line['fault']}/{line['reason']}" for line in self.lines(name) if "fault" in line]

    def tracebacks(self, name: str | None = None) -> list[str]:
        """Faults of the agent. A client that goes in the very moment of an answer makes gRPC log one of its own."""
        found = [line for line in self.lines(name) if "error" in line]
        return [str(line["error"]) for line in found if str(line["logger"]).startswith("meshpki")]

    def page(self, name: str, path: str) -> tuple[int, str]:
        """Status and text of a page of the agent of that name, which was given `http`."""
        shown = [line for line in self.lines(name) if line["message"] == "health and metrics are shown"]
        return page(shown[-1]["port"], path)

    def metrics(self, name: str) -> Numbers:
        """What that agent's metrics say."""
        return numbers_in(self.page(name, "/metrics")[1])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Numbers:
    """The samples of one look at an agent's metrics."""

    samples: list[Sample]

    def of(self, metric: str, **labels: str) -> float:
        """One number; several that fit the labels are added up."""
        named = [sample for sample in self.samples if sample.name == f"meshpki_agent_{metric}"]
        assert named, f"no metric {metric}"
        return sum(sample.value for sample in named if labels.items() <= sample.labels.items())


def numbers_in(text: str) -> Numbers:
    """Read Prometheus' text format."""
    families = text_string_to_metric_families(text)
    return Numbers([sample for family in families for sample in family.samples])


def page(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page on this machine; asked again where it says that the agent stands still just now."""
    while (found := _page(port, path)) == (503, "the event loop does not answer\n"):
        pass
    return found


def _page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(frozen=True)
class Look:
    """What one look at a socket found. Times are epoch seconds of this process."""

    at: float
    """When it began: what was valid when it was served, was so then, however late it was read."""
    serial: int = 0
    not_after: float = 0.0
    error: str = ""

    @property
    def valid(self) -> bool:
        return not self.error and self.at < self.not_after


class Watch:
    """Looks at every socket again and again, each time by a stream of its own, and keeps what it was given.

    A look is good when key and certificate belong together and roots came with them; a look that is not has an error.
    """

    def __init__(self, sockets: Mapping[str, Path], *, every: float = 0.25) -> None:
        self._every = every
        self._looks: dict[str, list[Look]] = {name: [] for name in sockets}
        self._channels = {name: _channel(path) for name, path in sockets.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._call: grpc.RpcContext | None = None

    def _begun(self, call: grpc.RpcContext) -> None:
        self._call = call

    def of(self, name: str) -> list[Look]:
        """The looks so far."""
        return list(self._looks[name])

    def serials(self, name: str) -> list[int]:
        """Different serials, in the order in which they were first seen."""
        return list(dict.fromkeys(look.serial for look in self._looks[name] if not look.error))

    def gaps(self, name: str) -> list[Look]:
        """Looks without a certificate that was valid then, after the first one that had one."""
        looks = self._looks[name]
        first = next((number for number, look in enumerate(looks) if look.valid), len(looks))
        return [look for look in looks[first:] if not look.valid]

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            for name, channel in self._channels.items():
                self._looks[name].append(look_at(channel, begun=self._begun))
                self._call = None  # its stream ends with it
            self._over.wait(max(0.0, self._every - (time.monotonic() - began)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(2 * LOOK_SECONDS)
        if (call := self._call) is not None:
            call.cancel()  # a stream of grpcio's was seen once to outlive its deadline, for ever
        self._thread.join()
        for channel in self._channels.values():
            channel.close()


def _channel(path: Path) -> grpc.Channel:
    """A connection that comes back at once when the agent does."""
    backoff = [(f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "min", "max")]
    return grpc.insecure_channel(f"unix:{path}", options=[*backoff, ("grpc.use_local_subchannel_pool", 1)])


def requests(*names: str) -> discovery_pb2.DiscoveryRequest:
    return discovery_pb2.DiscoveryRequest(resource_names=names, type_url=methods.SECRET_TYPE_URL)


def stream_of(
    channel: grpc.Channel,
) -> grpc.StreamStreamMultiCallable[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse]:
    return channel.stream_stream(
        methods.STREAM_SECRETS,
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )


def look_at(channel: grpc.Channel, *, begun: Callable[[grpc.RpcContext], object] = lambda call: None) -> Look:
    """Subscribe, take the first answer, examine it; `begun` gets the call, for whoever is to end it."""
    at = time.time()
    try:
        call = stream_of(channel)(iter([requests("default", "ROOTCA")]), timeout=LOOK_SECONDS)
        begun(call)
        answer = next(call)
        leaf = examine(answer)
    except StopIteration:
        return Look(at, error="the stream ended without an answer")
    except grpc.RpcError as error:
        return Look(at, error=f"{error.code().name}: {error.details()}")
    except (ValueError, KeyError) as error:
        return Look(at, error=f"not fit to use: {error!r}")
    return Look(at, leaf.serial_number, leaf.not_valid_after_utc.timestamp())


def look_once(socket: Path) -> Look:
    """Connect, look, go."""
    with _channel(socket) as channel:
        return look_at(channel)


class Subscriber:
    """One long stream, as Envoy has it: subscribes, acknowledges what comes, and keeps it all."""

    def __init__(self, socket: Path) -> None:
        self._channel = _channel(socket)
        self._say: queue.SimpleQueue[discovery_pb2.DiscoveryRequest | None] = queue.SimpleQueue()
        self._say.put(requests("default", "ROOTCA"))
        self.pushed: list[tuple[float, int]] = []
        """When (epoch seconds) each certificate came, and its serial."""
        self.status: grpc.StatusCode | None = None
        """How the stream ended; None while it is open."""
        self._call = stream_of(self._channel)(iter(self._say.get, None))
        self._thread = threading.Thread(target=self._read, name="subscriber")
        self._thread.start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                names = {secret_pb2.Secret.FromString(one.value).name for one in answer.resources}
                if "default" in names:
                    self.pushed.append((time.time(), serial_of(answer)))
                acknowledgement = requests("default", "ROOTCA")
                acknowledgement.version_info, acknowledgement.response_nonce = answer.version_info, answer.nonce
                self._say.put(acknowledgement)
            self.status = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.status = error.code()
        self._say.put(None)

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serial_of(answer: discovery_pb2.DiscoveryResponse) -> int:
    """The serial of the certificate in an answer that has one."""
    secrets = {secret.name: secret for secret in (secret_pb2.Secret.FromString(one.value) for one in answer.resources)}
    chain = secrets["default"].tls_certificate.certificate_chain.inline_bytes
    return x509.load_pem_x509_certificates(chain)[0].serial_number


def examine(answer: discovery_pb2.DiscoveryResponse) -> x509.Certificate:
    """The leaf of a whole answer. Raises ValueError or KeyError when parts are missing or do not fit together."""
    secrets = {secret.name: secret for secret in (secret_pb2.Secret.FromString(one.value) for one in answer.resources)}
    own = secrets["default"].tls_certificate
    leaf = x509.load_pem_x509_certificates(own.certificate_chain.inline_bytes)[0]
    key = serialization.load_pem_private_key(own.private_key.inline_bytes, None)
    if key.public_key() != leaf.public_key():
        raise ValueError("key and certificate of two sets")
    x509.load_pem_x509_certificates(secrets["ROOTCA"].validation_context.trusted_ca.inline_bytes)
    return leaf


@dataclass
class Orders:
    """What a CA does with the calls of one agent."""

    status: grpc.StatusCode | None = None
    message: str = "for the test"
    hangs: bool = False
    life: float | None = None


@dataclass(frozen=True)
class Taken:
    """One call of one agent. `token` is what stood behind `Bearer `."""

    at: float
    token: str


class ScriptedCa(FakeCa):
    """A CA that treats each agent by its name, which agents send as their cluster."""

    def __init__(self, *, life: float = 3600) -> None:
        super().__init__(life=life)
        self.orders: dict[str, Orders] = {}
        self.taken: dict[str, list[Taken]] = {}
        self.released = threading.Event()

    def stop(self) -> None:
        self.released.set()
        super().stop()
        self.released.clear()

    def _create(self, request: IstioCertificateRequest, context: grpc.ServicerContext) -> IstioCertificateResponse:
        from meshpki.wire.istio_ca_pb2 import IstioCertificateResponse

        headers: dict[str, Any] = {item.key: item.value for item in context.invocation_metadata()}  # type: ignore[attr-defined]  # stubs say tuple
        token = str(headers.get("authorization", ""))[len("Bearer ") :]
        name = self.name_of(str(headers.get("clusterid", "")), token)
        self.taken.setdefault(name, []).append(Taken(time.time(), token))
        orders = self.orders.get(name, Orders())
        if orders.hangs:
            self.released.wait(30)
        if orders.status is not None:
            context.abort(orders.status, orders.message)
        life = self.life if orders.life is None else orders.life
        return IstioCertificateResponse(cert_chain=self.authority.answer(request.csr, ends=life, uri=self.uri_of(name)))

    def name_of(self, cluster: str, token: str) -> str:
        """Whose call it is."""
        return cluster

    def uri_of(self, name: str) -> str:
        """What its certificate says."""
        return SPIFFE_ID


@dataclass
class Places:
    """Directories of agents by name, below one short directory."""

    root: Path
    made: dict[str, AgentFiles] = field(default_factory=dict)

    def agent(self, name: str, ca: FakeCa, *, call_seconds: float = 30.0, **changes: Any) -> AgentConfig:  # Any: fields
        """A directory with roots and a good token, and the configuration of the agent that lives there."""
        files = AgentFiles(self.root / name)
        files.directory.mkdir()
        files.roots.write_bytes(ca.authority.roots_pem)
        files.write_token(expires_at=time.time() + 3600)
        self.made[name] = files
        config = files.config(ca, ttl_seconds=3600, call_seconds=call_seconds)
        return replace(config, cluster=name, ca_server_name=SERVER_NAME, **changes)

    def __getitem__(self, name: str) -> AgentFiles:
        return self.made[name]

    def state(self, name: str) -> str:
        return str(self.made[name].read_status().get("state", ""))

    def serial(self, name: str) -> int:
        return int(self.made[name].read_status().get("serial") or "0", 16)

    def sockets(self) -> dict[str, Path]:
        return {name: files.socket for name, files in self.made.items()}


@contextlib.contextmanager
def places() -> Iterator[Places]:
    """A short directory that goes in the end."""
    with tempfile.TemporaryDirectory(prefix="mpc-", dir="/tmp") as directory:
        yield Places(Path(directory))


def until(condition: Callable[[], object], what: str | Callable[[], object], seconds: float = PATIENCE) -> None:
    """Poll a condition with a bound; `what` is asked only when it was not kept."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.05)


def all_in(at: Places, names: Sequence[str], state: str, seconds: float = PATIENCE) -> None:
    """Wait until the agents of these names say that they are in that state."""
    until(
        lambda: all(at.state(name) == state for name in names),
        lambda: f"all {state}, but {[(name, at.state(name)) for name in names if at.state(name) != state]}",
        seconds,
    )


def files_serial(directory: Path) -> int:
    """The serial of the set of files, which belong together. Opened once, so that it is one set."""
    at = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with (
            open("cert-chain.pem", "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=at)) as chain,
            open("key.pem", "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=at)) as key,
        ):
            leaf = x509.load_pem_x509_certificates(chain.read())[0]
            assert serialization.load_pem_private_key(key.read(), None).public_key() == leaf.public_key()
            return leaf.serial_number
    finally:
        os.close(at)
