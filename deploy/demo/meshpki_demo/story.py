"""The steps of the story, in a table; each says what it is about to do, does it, and checks that it came so."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from meshpki.agent.node import client as node_client
from meshpki.errors import RefusedError
from meshpki.identity import ServiceAccountRef
from meshpki_demo import leftovers
from meshpki_demo.app import EchoApp
from meshpki_demo.bootstrap import NodeSecrets, SdsSecrets, Secrets, client_bootstrap, server_bootstrap
from meshpki_demo.envoy import Envoy
from meshpki_demo.signing_client import SigningClient
from meshpki_demo.stage import CLIENT, SERVER, STATE, NotAsToldError, Stage, spiffe_id
from meshpki_demo.strangers import KeyPair, impostor, knock
from meshpki_demo.traffic import Traffic, ask
from meshpki_demo.wrong_tokens import Forge
from meshpki_local import run_file

CERTIFICATE_TTL: Final = "30s"
ROTATION_SECONDS: Final = 90.0
RECOVERY_SECONDS: Final = 60.0
NODE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
REQUESTS_AFTER: Final = 50
MADE: Final = re.compile(r"  new |Applied: |\d+ of \d+ checks passed")
PROVEN: Final = re.compile(r"passed  ")
COLUMN_GAP: Final = re.compile(r" {2,}")
SSL_STATS: Final = "listener.sidecar.ssl."
AUDIT_LOG: Final = f"{STATE}/audit/issuance.jsonl"


class Step(NamedTuple):
    """A heading, and what happens under it."""

    title: str
    play: Callable[[Stage], None]


def provision(on: Stage) -> None:
    """Run `meshpki provision` as a user would, in a directory made for this."""
    on.provisioned = True
    said = on.command(
        *("provision", "--platform", "local", "--state-dir", STATE),
        *("--certificate-ttl", CERTIFICATE_TTL, "--yes"),
    )
    on.tell.output("\n".join(_in_short(said)))
    on.tell.say("(In short. The whole plan, with reasons: the same with --dry-run.)")
    on.expect(on.layout.workload(CLIENT).socket.is_socket(), "a token issuer, a CA and two agents run on this machine")


def _in_short(said: str) -> Iterator[str]:
    """What is made, and what was proven, without reasons and evidence."""
    for line in said.splitlines():
        if MADE.match(line):
            yield line.strip()
        elif PROVEN.match(line):
            yield COLUMN_GAP.split(line, maxsplit=2)[0] + "  " + COLUMN_GAP.split(line, maxsplit=2)[1]


def start_envoys(on: Stage) -> None:
    """Start two sidecars, each with the socket of its own agent."""
    _start_pair(on, "", lambda account: SdsSecrets(on.layout.workload(account).socket))
    on.tell.say("program -> [client Envoy] ==== mTLS ====> [server Envoy] -> application")
    for account, envoy in on.envoys.items():
        on.tell.good(
            f"the {account.name} Envoy is live on {envoy.listener()}, with its certificate from its agent (SDS)"
        )


def _start_pair(on: Stage, suffix: str, secrets_of: Callable[[ServiceAccountRef], Secrets]) -> None:
    """Start the answering sidecar first: its port is the kernel's choice, and the calling one has to know it."""
    app = on.closing.enter_context(EchoApp())
    server = on.directory / f"server{suffix}"
    on.envoys[SERVER] = on.closing.enter_context(
        Envoy.start(
            server,
            server_bootstrap(
                node="server",
                admin=Envoy.admin_path(server),
                secrets=secrets_of(SERVER),
                peer=spiffe_id(CLIENT),
                app=app.address,
            ),
        )
    )
    client = on.directory / f"client{suffix}"
    on.envoys[CLIENT] = on.closing.enter_context(
        Envoy.start(
            client,
            client_bootstrap(
                node="client",
                admin=Envoy.admin_path(client),
                secrets=secrets_of(CLIENT),
                peer=spiffe_id(SERVER),
                upstream=on.envoys[SERVER].listener(),
            ),
        )
    )


def request(on: Stage) -> None:
    """Send one request through both, and show who each side proved to be."""
    reply = ask(on.envoys[CLIENT].listener())
    tell = on.tell
    tell.fact("caller, verified", reply.caller)
    tell.fact("server, verified", reply.server)
    tell.fact("session", f"{reply.tls}, both certificates checked")
    tell.fact("caller's serial", reply.caller_serial)
    tell.say("The application behind the server Envoy was told (x-forwarded-client-cert):")
    tell.output(reply.xfcc.replace(";", ";\n"))
    on.expect(
        (reply.caller, reply.server) == (spiffe_id(CLIENT), spiffe_id(SERVER)), "each side knows who the other one is"
    )
    on.expect(f"URI={spiffe_id(CLIENT)}" in reply.xfcc, "and the application knows who called")
    on.expect(reply.caller_serial in on.envoys[CLIENT].serials(), "by the very certificate that the agent serves")


def strangers(on: Stage) -> None:
    """Knock at the server Envoy without the client Envoy."""
    envoy = on.envoys[SERVER]
    files = on.layout.workload(CLIENT).certificates
    good = KeyPair(files / "cert-chain.pem", files / "key.pem")
    callers = (
        ("no client certificate", None, "fail_verify_no_cert"),
        ("the right name, from another CA", impostor(on.directory, spiffe_id(CLIENT)), "fail_verify_error"),
    )
    for story, pair, counter in callers:
        before = envoy.stats().get(SSL_STATS + counter, 0)
        refused = knock(envoy.listener(), pair)
        counted = envoy.stats().get(SSL_STATS + counter, 0) - before
        on.expect(not refused.admitted and counted == 1, f"refused: {story} (Envoy counts ssl.{counter})", refused.met)
    admitted = knock(envoy.listener(), good)
    on.expect(admitted.admitted, f"admitted, as a control: the client's own certificate ({admitted.met})", admitted.met)


def wrong_tokens(on: Stage) -> None:
    """Ask the running CA for the client's certificate with tokens that prove nothing."""
    forge = Forge.open(on.layout.workload(CLIENT).token, on.layout.token_key)
    with _signing_client(on) as ca:
        for wrong in forge.all():
            verdict = ca.ask(wrong.token)
            refused = verdict.status == "UNAUTHENTICATED" and wrong.reason in verdict.message
            on.expect(refused, f"refused: {wrong.story}", f"{verdict.status} {verdict.message}")
            on.tell.detail(verdict.message.split("; wanted:")[0])
        verdict = ca.ask(forge.right)
        on.expect(verdict.status == "OK", "issued, as a control: the client's own token", verdict.message)


def _signing_client(on: Stage) -> SigningClient:
    from meshpki.ca.config import load

    return SigningClient(
        str(load(on.layout.ca_config).listen),
        server_name="localhost",
        roots_pem=on.layout.root_certificate.read_bytes(),
    )


def rotation(on: Stage) -> None:
    """Keep requests going until the client's certificate has been replaced."""
    on.tell.say(f"Certificates live {CERTIFICATE_TTL} here and are renewed at half of that. Requests without a pause:")
    with Traffic(on.envoys[CLIENT].listener()) as traffic:
        deadline = time.monotonic() + ROTATION_SECONDS
        while len(traffic.tally.serials) < 2 and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        traffic.wait_sent(REQUESTS_AFTER)
    _show_serials(on, traffic)
    on.expect(len(traffic.tally.serials) >= 2, "the certificate was replaced, and the new one is in use")
    _expect_none_failed(on, traffic)


def kill_the_ca(on: Stage) -> None:
    """Kill the CA without warning; wait until it is back, and a certificate has been renewed by it."""
    pid = _ca_pid(on)
    with Traffic(on.envoys[CLIENT].listener()) as traffic:
        traffic.wait_sent(REQUESTS_AFTER)
        on.tell.command(f"kill -9 {pid}")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        token = on.layout.workload(CLIENT).token.read_text(encoding="ascii").strip()
        with _signing_client(on) as ca:
            verdict = ca.ask(token, RECOVERY_SECONDS)
        back, before = time.monotonic() - killed, set(traffic.tally.serials)
        deadline = time.monotonic() + ROTATION_SECONDS
        while set(traffic.tally.serials) <= before and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        traffic.wait_sent(REQUESTS_AFTER)
    on.expect(
        verdict.status == "OK" and _ca_pid(on) != pid, f"it issued again {back:.1f} s later, as process {_ca_pid(on)}"
    )
    on.expect(set(traffic.tally.serials) > before, "the next renewal went through as if nothing had been")
    _expect_none_failed(on, traffic)


def _ca_pid(on: Stage) -> int:
    record = run_file.read(on.layout.run_file)
    for child in record.children if record else ():
        if child.name == "ca" and child.pid:
            return child.pid
    raise NotAsToldError("the supervisor names no running CA", todo=f"look at {on.layout.logs}")


def _show_serials(on: Stage, traffic: Traffic) -> None:
    for serial, count in traffic.tally.serials.items():
        on.tell.fact(f"{count:>5} requests with", serial)


def _expect_none_failed(on: Stage, traffic: Traffic) -> None:
    tally = traffic.tally
    on.expect(not tally.failed, f"{tally.sent} requests, {tally.failed} failed", "; ".join(tally.failures))


def audit(on: Stage) -> None:
    """Verify the log, then a copy in which one letter was changed."""
    said = on.command("audit", "verify", AUDIT_LOG)
    on.tell.output(_lines(said, "verdict", "records"))
    on.expect(" issued" in said and " refused" in said, "whole; all that was issued is in it, and what was refused")
    on.tell.output(on.command("audit", "tail", AUDIT_LOG, "-n", "3"))
    copy = on.directory / "tampered"
    shutil.copytree(on.layout.audit, copy)
    log = copy / "issuance.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if b"/ns/default/" in line)
    lines[number] = lines[number].replace(b"/ns/default/", b"/ns/admin/")
    log.write_bytes(b"".join(lines))
    on.tell.say(f"In a copy, somebody moves the caller of record {number} to another namespace:")
    on.tell.command(on.meshpki.shown("audit", "verify", "tampered/issuance.jsonl"))
    done = on.meshpki.run("audit", "verify", "tampered/issuance.jsonl")
    on.tell.output(_lines(done.out, "verdict", "to do"))
    found = done.status == 1 and f"record {number} " in done.out
    on.expect(found, f"found; exit status {done.status}", done.err)


def _lines(said: str, *beginnings: str) -> str:
    return "\n".join(line for line in said.splitlines() if line.startswith(beginnings))


def node_mode(on: Stage) -> None:
    """Exchange the agents for one that serves both workloads, and try to be somebody else on its socket."""
    for envoy in on.envoys.values():
        envoy.stop()
    said = on.command("provision", "--platform", "local", "--state-dir", STATE, "--agent", "node", "--yes")
    on.tell.output(_lines(said, "11 of 11"))
    layout = on.layout
    _start_pair(on, "-n", lambda account: NodeSecrets(layout.node_socket, layout.workload(account).token))
    reply = ask(on.envoys[CLIENT].listener())
    known = (reply.caller, reply.server) == (spiffe_id(CLIENT), spiffe_id(SERVER))
    on.expect(known, "one socket for two Envoys; each shows its token, and gets its own identity")
    forge = Forge.open(layout.workload(CLIENT).token, layout.token_key)
    for wrong in forge.all():
        if wrong.reason in {"token_bad_signature", "token_expired"} and wrong.token is not None:
            on.expect(_is_refused(on, wrong.token), f"refused there: the client's token, {wrong.story}")
    on.expect(not _is_refused(on, forge.right), "served there, as a control: the client's own token")


def _is_refused(on: Stage, token: str) -> bool:
    try:
        return node_client.ask(on.layout.node_socket, token.encode(), NODE_SECONDS).spiffe_id != spiffe_id(CLIENT)
    except RefusedError:
        return True


def farewell(on: Stage) -> None:
    """Show the status, take everything away, and look whether anything is left."""
    on.tell.output(on.command("status", "--state-dir", STATE))
    for envoy in on.envoys.values():
        envoy.stop()
    on.tell.output(on.command("deprovision", "--state-dir", STATE, "--yes"))
    on.provisioned = False
    left = [str(path.relative_to(on.directory)) for path in (on.directory / STATE).rglob("*")]
    on.expect(not left, "no file is left in the state directory", ", ".join(left[:5]))
    running = leftovers.processes_in(on.directory)
    on.expect(not running, "no process is left", f"still running: {running}")


STEPS: Final = (
    Step("Provision this machine: no cluster, no root", provision),
    Step("Start two real Envoys; their certificates come from the agents", start_envoys),
    Step("A request through both", request),
    Step("Strangers at the server Envoy's door", strangers),
    Step("Wrong tokens at the CA", wrong_tokens),
    Step("Rotation under traffic", rotation),
    Step("kill -9 the CA under traffic", kill_the_ca),
    Step("The audit log", audit),
    Step("One agent for the whole node, in place of one for each workload", node_mode),
    Step("Status, and farewell", farewell),
)
