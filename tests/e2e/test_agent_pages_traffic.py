"""The Envoy configurations of docs/agent-and-envoy.md and docs/agent-node-mode.md, copied by a reader and used.

Real Envoys, real agents with the page's arguments, a real CA. Only what the pages call the reader's own is replaced:
addresses, paths and the application's port; and each Envoy gets an admin socket, to be asked where it listens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from meshpki_demo.app import XFCC, EchoApp
from meshpki_demo.bootstrap import Address, FileSecrets, Json, client_bootstrap
from meshpki_demo.envoy import Envoy
from support import ca_server, renewal
from support.agent_process import wait_until
from support.command_line import COMMAND
from support.doc_pages import ROOT, blocks
from support.node_agent import put_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.ca_server import RunningCa

pytestmark = pytest.mark.e2e

POD_PAGE = ROOT / "docs" / "agent-and-envoy.md"
NODE_PAGE = ROOT / "docs" / "agent-node-mode.md"
CLIENT = "spiffe://mesh.local/ns/default/sa/client"
SERVER = "spiffe://mesh.local/ns/default/sa/server"
METADATA: Json = {"ANNOTATIONS": {f"example.com/annotation-{number:04d}": "x" * 100 for number in range(200)}}
"""About 25 KB, as Istio adds them to what every Envoy says of itself, which alone is 61 KB."""
CONNECTED = "03"
"""The state of a socket in /proc/net/unix."""
Document = dict[str, Any]  # Any: a page's YAML, looked at place by place


@dataclass
class Reader:
    """Who has copied a page: a directory in place of the container's `/var/run`, and a CA of theirs."""

    directory: Path
    ca: RunningCa

    def copied(self, page: Path, language: str, workload: str) -> Document:
        """The one block of that language, with this workload's paths."""
        (block,) = blocks(page, language)
        text = block.text.replace("/var/run/meshpki/node", str(self.directory / "host"))  # one for all of the node
        text = text.replace("/etc/meshpki", str(self.var_run(workload)))
        return dict(yaml.safe_load(text.replace("/var/run", str(self.var_run(workload)))))

    def var_run(self, workload: str) -> Path:
        return self.directory / workload[0]

    def prepare(self, workload: str) -> None:
        """What the volumes bring: roots and a token."""
        run = self.var_run(workload)
        (run / "meshpki").mkdir(parents=True)
        (run / "root-cert.pem").write_bytes(self.ca.authority.root_pem)
        (run / "secrets" / "tokens").mkdir(parents=True)
        put_token(run / "secrets" / "tokens" / "istio-token", self.ca.maker.token(now=time.time(), name=workload))

    @contextlib.contextmanager
    def agent(self, page: Path, workload: str) -> Iterator[None]:
        """The page's container, for as long as the block lasts."""
        mine = {
            "--ca-address": self.ca.server.address,
            "--ca-server-name": ca_server.SERVER_NAME,
            "--ca-renewal-address": self.ca.server.renewal_address,
            "--http": "127.0.0.1:0",
        }
        words = self.copied(page, "yaml", workload)["containers"][0]["args"]
        options = dict(word.partition("=")[::2] for word in words[2:])
        argv = [f"{name}={mine.get(name, value)}" if value else name for name, value in options.items()]
        log = self.directory / f"{workload}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*COMMAND, *words[:2], *argv], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            wait_until(lambda: Path(options["--sds-socket"]).is_socket() or process.poll(), "a socket", 60)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0

    def server_envoy(self, page: Path, app: EchoApp) -> Envoy:
        config = self.copied(page, "envoy", "server")
        config["node"]["metadata"] = METADATA
        inbound = config["static_resources"]["listeners"][0]["address"]["socket_address"]
        assert inbound["port_value"] == 15006
        inbound.update(address="127.0.0.1", port_value=0)
        application = config["static_resources"]["clusters"][0]
        (endpoint,) = application["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == 8080
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = app.address.port
        return self.envoy("es", config)

    def client_envoy(self, transport: Document, upstream: Address, *clusters: Document, name: str = "ec") -> Envoy:
        """A sidecar that calls, with that transport socket; what is plain HTTP in it is not a page's affair."""
        none = Path("/nowhere")
        config = json.loads(
            json.dumps(
                client_bootstrap(
                    node="client",
                    admin=none,
                    secrets=FileSecrets(none, none, none),
                    peer=SERVER,
                    upstream=upstream,
                )
            )
        )
        called = config["static_resources"]["clusters"][0]
        called["transport_socket"] = transport
        config["static_resources"]["clusters"] = [called, *clusters]
        return self.envoy(name, config)

    def envoy(self, name: str, config: Mapping[str, Json]) -> Envoy:
        where = self.directory / name
        admin: Json = {"address": {"pipe": {"path": str(Envoy.admin_path(where)), "mode": 0o600}}}
        return Envoy.start(where, {**config, "admin": admin})


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    directory = Path(tempfile.mkdtemp(prefix="mpd-", dir="/tmp"))
    with renewal.running(tmp_path) as ca:
        made = Reader(directory, ca)
        for workload in ("client", "server", "other", "node"):
            made.prepare(workload)
        yield made
    shutil.rmtree(directory)


def inbound_port(envoy: Envoy) -> Address:
    listeners = envoy.admin("/listeners?format=json")["listener_statuses"]
    assert isinstance(listeners, list)
    (listener,) = listeners
    bound = listener["local_address"]["socket_address"]
    return Address(bound["address"], int(bound["port_value"]))


@dataclass(frozen=True)
class Reply:
    status: int
    server: str
    """Whom the calling Envoy met, by the certificate."""
    told: Mapping[str, str]
    """What the application was told of its caller."""


def ask(sidecar: Address) -> Reply:
    connection = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=20)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
        told = json.loads(body) if answer.status == http.HTTPStatus.OK else {}
        return Reply(answer.status, answer.headers.get("x-upstream-uri", ""), told)
    finally:
        connection.close()


def refused(envoy: Envoy, server: Envoy) -> None:
    """No answer through it, and the answering Envoy counts the name as the reason."""
    assert ask(envoy.listener()).status == http.HTTPStatus.SERVICE_UNAVAILABLE
    wait_until(lambda: any(name.endswith("ssl.fail_verify_san") for name in server.stats()), "counted as such")


def connections_to(socket: Path) -> int:
    """How many are open, as the kernel lists them: by their server's ends, which have the name it was bound to."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    ours = [row for row in rows if len(row) > 7 and Path(row[7]).parent == socket.parent]
    return sum(row[5] == CONNECTED for row in ours)


def test_the_page_of_pod_mode_carries_traffic(reader: Reader) -> None:
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(EchoApp())
        for workload in ("client", "server", "other"):
            stack.enter_context(reader.agent(POD_PAGE, workload))
        server = stack.enter_context(reader.server_envoy(POD_PAGE, app))
        assert connections_to(reader.var_run("server") / "meshpki" / "sds" / "sds.sock") == 1

        def calling(workload: str, name: str) -> Envoy:
            transport = reader.copied(POD_PAGE, "envoy-cluster", workload)
            (agent,) = reader.copied(POD_PAGE, "envoy", workload)["static_resources"]["clusters"][1:]
            return stack.enter_context(reader.client_envoy(transport, inbound_port(server), agent, name=name))

        reply = ask(calling("client", "ec").listener())
        assert (reply.status, reply.server) == (200, SERVER)
        assert reply.told[XFCC].startswith(f"By={SERVER};")
        assert reply.told[XFCC].endswith(f";URI={CLIENT}"), "the caller's name, by its certificate"
        refused(calling("other", "eo"), server)


def test_the_page_of_node_mode_carries_traffic(reader: Reader) -> None:
    """One agent, two Envoys with a token file each; and a third that may not call."""
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(EchoApp())
        stack.enter_context(reader.agent(NODE_PAGE, "node"))
        server = stack.enter_context(reader.server_envoy(NODE_PAGE, app))
        assert connections_to(reader.directory / "host" / "sds.sock") == 2, "one for each secret, as the page says"

        def calling(workload: str, name: str) -> Envoy:
            config = reader.copied(NODE_PAGE, "envoy", workload)
            tls = config["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
            (own,) = tls["common_tls_context"]["tls_certificate_sds_secret_configs"]
            transport = reader.copied(POD_PAGE, "envoy-cluster", workload)
            common = transport["typed_config"]["common_tls_context"]
            common["tls_certificate_sds_secret_configs"][0]["sds_config"] = own["sds_config"]
            common["combined_validation_context"]["validation_context_sds_secret_config"]["sds_config"] = own[
                "sds_config"
            ]
            return stack.enter_context(reader.client_envoy(transport, inbound_port(server), name=name))

        reply = ask(calling("client", "ec").listener())
        assert (reply.status, reply.server) == (200, SERVER)
        refused(calling("other", "eo"), server)
