"""`meshpki verify` of a cluster: from options to a round and its report."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from meshpki.errors import ExitCode, InvalidValueError, UsageError
from meshpki.hooks import CaEndpoint
from meshpki.identity import TrustDomain
from meshpki_cli import cluster_options, progress
from meshpki_cli.failures import InterruptedRun
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.kube.access import Access
    from meshpki.provision.checks import VerifyReport
    from meshpki.provision.proof.proof import Knock
    from meshpki.provision.proof.question import Question
    from meshpki_cli.page import Page

MAX_ROOTS_BYTES: Final = 1 << 20
FIELD_MANAGER: Final = "meshpki-verify"
_HOW_TO_GET_ROOTS: Final = "give the root certificate of the CA: `issuer.root` in its configuration"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which contexts of which kubeconfig, and how to speak to them."""

    kubeconfig: Path | None
    context: str | None
    other_context: str | None
    allow_exec: tuple[Path, ...]
    timeout: int


class Wishes(TypedDict):
    """The fields of a Question that options set."""

    namespace: str
    audience: str
    other_trusted: bool
    require_revocation: bool
    revocation_seconds: float
    legacy_seconds: float


def endpoint(address: str | None, roots: Path | None, server_name: str | None) -> CaEndpoint:
    """Where the CA is. Raises UsageError for what was not said and for a file without roots, MachineError for none."""
    from meshpki.agent.rotation.bundle import read_roots
    from meshpki.runtime.files import read_capped

    if address is None or roots is None:
        raise UsageError(
            "a cluster's CA is not known from the kubeconfig", wanted="--ca-address HOST:PORT and --ca-roots FILE"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise UsageError(f"--ca-address {address!a:.80}", wanted="HOST:PORT")
    pem = read_capped(roots, limit=MAX_ROOTS_BYTES)
    try:
        read_roots(pem)
    except InvalidValueError as error:
        raise UsageError(f"--ca-roots {roots}: {error.seen}", wanted=error.wanted, todo=_HOW_TO_GET_ROOTS) from error
    return CaEndpoint(address, server_name or host.strip("[]"), pem)


def question(trust_domain: str | None, **wishes: Unpack[Wishes]) -> Question:
    """What is to be proven. Raises UsageError, InvalidValueError."""
    from meshpki.provision.proof.question import Question

    if trust_domain is None:
        raise UsageError("no trust domain", wanted="--trust-domain NAME, as the CA's configuration says")
    return Question(TrustDomain(trust_domain), **wishes)


def run(cluster: Cluster, ca: CaEndpoint, wanted: Question, output: Output) -> int:
    """Make the round and show it; the exit status. Raises MeshpkiError, InterruptedRun."""
    access = cluster_options.access(cluster.kubeconfig, cluster.context, cluster.allow_exec)
    other = None
    if cluster.other_context is not None:
        other = cluster_options.access(cluster.kubeconfig, cluster.other_context, cluster.allow_exec)
        if other.server == access.server:
            raise UsageError(f"--other-context is of the same API server {access.server}", wanted="another cluster")
    elif wanted.other_trusted:
        raise UsageError("--other-trusted without another cluster", wanted="--other-context NAME")
    report = _prove(access, other, ca, wanted, cluster.timeout)

    def view(page: Page) -> None:
        from meshpki_cli.verify_view import show_checks

        page.line(str(access))
        page.blank()
        show_checks(page, report)

    emit(output, _document(access, other, ca, wanted, report), view)
    return ExitCode.DONE if report.passed else ExitCode.ERROR


def _prove(access: Access, other: Access | None, ca: CaEndpoint, wanted: Question, timeout: int) -> VerifyReport:
    from meshpki.kube.client import KubeClient
    from meshpki.provision.ca_questions import CaQuestions, default_sign, new_request
    from meshpki.provision.cluster.uninterrupted import stoppable
    from meshpki.provision.proof.proof import prove
    from meshpki.runtime import logs

    logs.quiet_grpc()

    def client(to: Access) -> KubeClient:
        return KubeClient(to, field_manager=FIELD_MANAGER, timeout_seconds=timeout)

    report = None
    try:
        with contextlib.ExitStack() as opened:
            opened.enter_context(stoppable())
            told = opened.enter_context(progress.patient())
            asker = opened.enter_context(client(access))
            other_asker = opened.enter_context(client(other)) if other is not None else None
            questions = CaQuestions(ca, default_sign(), new_request())
            report = prove(
                asker,
                questions,
                wanted,
                knock=_knock(access, timeout),
                login=asker.login_advice,
                other=other_asker,
                progress=told,
            )
    except KeyboardInterrupt as error:
        if report is None:
            raise InterruptedRun("nothing of verify is left on the cluster") from error
    return report  # a signal that came after it is too late to change anything


def _knock(access: Access, timeout: int) -> Knock:
    """A request whose only credential is the token that is tried."""
    from meshpki.kube.client import KubeClient
    from meshpki.kube.credentials import TokenText
    from meshpki.provision.cluster import version

    def knock(token: str) -> int:
        with KubeClient(replace(access, credential=TokenText(token)), timeout_seconds=timeout) as client:
            return client.request("GET", version.PATH).status

    return knock


def _document(
    access: Access, other: Access | None, ca: CaEndpoint, wanted: Question, report: VerifyReport
) -> dict[str, object]:
    return {
        "server": access.server,
        "other_server": other.server if other else None,
        "ca": ca.address,
        "namespace": wanted.namespace,
        "audience": wanted.audience,
        "spiffe_id": str(wanted.spiffe_id),
        "passed": report.passed,
        "checks": report.checks,
    }
