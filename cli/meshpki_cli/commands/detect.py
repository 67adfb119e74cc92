"""`meshpki detect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from meshpki.errors import ExitCode, MeshpkiError
from meshpki.hooks import ClusterRef
from meshpki_cli import cluster_options, progress
from meshpki_cli.cluster_options import AllowExecOption, AudienceOption, ContextOption, KubeconfigOption

# All of these at run time: typer reads the options out of the annotations.
from meshpki_cli.detect_options import (
    CanaryImage,
    CanaryTimeout,
    Namespace,
    Platform,
    Rbac,
    Timeout,
    WithCanary,
)
from meshpki_cli.failures import InterruptedRun
from meshpki_cli.options import OutputOption, StateDirOption, StrictPluginsOption
from meshpki_cli.output import Output, emit
from meshpki_cli.platform_options import MaybePlatformCommand, chosen_if_any

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.kube.access import Access
    from meshpki.provision.cluster.findings import Addition, Findings
    from meshpki.provision.cluster.ladder import Ladder
    from meshpki.provision.cluster.question import Question
    from meshpki_cli.page import Page
    from meshpki_cli.platform_options import Chosen


COMMAND = MaybePlatformCommand


def run(
    ctx: typer.Context,
    state_dir: StateDirOption,
    *,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: Namespace = "default",
    audience: AudienceOption = "istio-ca",
    canary: WithCanary = False,
    canary_image: CanaryImage = "registry.k8s.io/pause:3.10",
    canary_timeout: CanaryTimeout = 60,
    platform: Platform = None,
    strict_plugins: StrictPluginsOption = False,
    rbac: Rbac = None,
    allow_exec: AllowExecOption = None,
    timeout: Timeout = 10,
    output: OutputOption = Output.TABLE,
) -> int:
    """Find out which modes a cluster allows, and on what evidence.

    Changes nothing that lasts: a ServiceAccount meshpki-detect is made in the namespace, gets one token of 600 s that
    is neither stored nor shown, and is removed again, after Ctrl-C too. What a killed run left, the next one removes.

    Exit status 0: sds is proven, or pod-certificate where sds is not possible. 3: only file-mount, which takes the
    operator's word. 1: could not tell, or a mesh token would open the API server. What detect must be allowed to do is
    printed by --rbac.
    """
    del platform, strict_plugins  # read by MaybePlatformCommand, which has to know them before the rest
    from meshpki.provision.cluster.findings import Findings
    from meshpki.provision.cluster.question import Canary, Question

    wanted = Canary(canary_image, float(canary_timeout)) if canary else None
    question = Question(namespace, audience, wanted)
    if rbac is not None:
        return _print_rights(question, rbac, output)
    access = cluster_options.access(kubeconfig, context, allow_exec)
    ladder, problem = _climb(access, question, timeout, cluster_options.kubectl(access, kubeconfig))
    found = Findings(ladder)
    asked = chosen_if_any(ctx)
    if asked is not None and problem is None:
        ref = ClusterRef(kubeconfig, access.context, tuple(allow_exec or ()))
        found, problem = _with_platform(asked, ladder, state_dir, ref)
    document = _document(access, question, found)

    def view(page: Page) -> None:
        from meshpki_cli.detect_view import show_findings

        show_findings(page, found, str(access))

    emit(output, document, view)
    if problem is not None:
        raise problem  # after what was found out all the same
    return _status(found)


def _with_platform(
    asked: Chosen, ladder: Ladder, state_dir: Path, ref: ClusterRef
) -> tuple[Findings, MeshpkiError | None]:
    from meshpki.provision.cluster import platform
    from meshpki.provision.cluster.findings import Findings

    try:
        added = platform.ask(asked.plugins, asked.platform.name, asked.options, state_dir, ladder=ladder, ref=ref)
    except MeshpkiError as error:
        return Findings(ladder), error
    return Findings(ladder, added), None


def _print_rights(question: Question, who: str, output: Output) -> ExitCode:
    from meshpki.provision.cluster import rbac

    rights = rbac.manifest(question.namespace, rbac.read_subject(who), canary=question.canary is not None)
    emit(Output.YAML if output is Output.TABLE else output, rights, lambda _: None)
    if question.canary is not None and output is Output.TABLE:
        typer.echo(
            f"note: whoever may create pods in namespace {question.namespace} may use every Secret and ServiceAccount "
            "of it; --namespace names another",
            err=True,
        )
    return ExitCode.DONE


def _climb(access: Access, question: Question, timeout: int, kubectl: str) -> tuple[Ladder, MeshpkiError | None]:
    """The ladder, and what is to be told after it. Raises LeftBehindError when there is none, InterruptedRun."""
    from meshpki.kube.client import KubeClient
    from meshpki.provision.cluster.climb import LeftBehindError, climb
    from meshpki.provision.cluster.uninterrupted import stoppable

    try:
        with (
            stoppable(),
            KubeClient(access, field_manager="meshpki-detect", timeout_seconds=timeout) as client,
            progress.patient() as told,
        ):
            return climb(client, question, progress=told, login=client.login_advice, kubectl=kubectl), None
    except LeftBehindError as error:
        if error.ladder is None:
            raise
        return error.ladder, error
    except KeyboardInterrupt as error:
        if isinstance(error.__context__, LeftBehindError):  # it was on its way to us when another signal came
            raise error.__context__ from None
        raise InterruptedRun("nothing of detection is left on the cluster") from error


def _status(found: Findings) -> ExitCode:
    from meshpki.provision.cluster.ladder import Standing

    match found.standing:
        case Standing.PROVEN:
            return ExitCode.DONE
        case Standing.FILE_MOUNT_ONLY:
            return ExitCode.OPERATOR_NEEDED
        case _:
            return ExitCode.ERROR


def _document(access: Access, question: Question, found: Findings) -> dict[str, object]:
    ladder = found.ladder
    return {
        "server": access.server,
        "context": access.context,
        "kubeconfig": access.kubeconfig,
        "namespace": question.namespace,
        "audience": question.audience,
        "version": ladder.git_version,
        "distribution": ladder.distribution,
        "features": ladder.features,
        "emulated": ladder.emulated,
        "standing": found.standing,
        "modes": found.modes,
        "ca_policies": found.policies,
        "lift": found.lift,
        "facts": dict(ladder.facts),
        "rungs": ladder.verdicts,
        "platform": found.addition and _platform(found.addition),
    }


def _platform(added: Addition) -> dict[str, object]:
    said = added.detection
    return {
        "name": added.platform,
        "origin": added.origin,
        "version": said.version,
        "distribution": said.distribution,
        "modes": said.modes,
        "node_versions": said.node_versions,
        "facts": dict(said.facts),
        "evidence": added.evidence,
    }
