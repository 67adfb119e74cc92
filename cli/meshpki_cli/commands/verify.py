"""`meshpki verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.errors import ExitCode, OperatorNeededError, UsageError
from meshpki_cli.cluster_options import AllowExecOption, AudienceOption, ContextOption, KubeconfigOption
from meshpki_cli.options import OutputOption, StateDirOption, StrictPluginsOption, command_for
from meshpki_cli.output import Output, emit

# All of these at run time: typer reads the options out of the annotations.
from meshpki_cli.verify_options import (
    CaAddress,
    CaRoots,
    CaServerName,
    LegacyWithin,
    Namespace,
    OtherContext,
    OtherTrusted,
    RequireRevocation,
    RevocationWithin,
    Timeout,
    TrustDomain,
)

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki_cli.page import Page


def run(
    state_dir: StateDirOption,
    *,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    ca_address: CaAddress = None,
    ca_roots: CaRoots = None,
    ca_server_name: CaServerName = None,
    trust_domain: TrustDomain = None,
    namespace: Namespace = "default",
    audience: AudienceOption = "istio-ca",
    other_context: OtherContext = None,
    other_trusted: OtherTrusted = False,
    require_revocation: RequireRevocation = False,
    revocation_within: RevocationWithin = 60,
    legacy_within: LegacyWithin = 10,
    allow_exec: AllowExecOption = None,
    timeout: Timeout = 10,
    strict_plugins: StrictPluginsOption = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """Prove by a real round that identities are issued, and that wrong tokens are refused.

    Without --context and --kubeconfig: what was provisioned on this machine.

    With one of them: a cluster and its running CA (--ca-address, --ca-roots, --trust-domain), from here. A
    ServiceAccount meshpki-verify, a pod that is never scheduled and a Secret are made in the namespace, and removed
    again, after Ctrl-C too; what a killed run left, the next one removes. What verify must be allowed to do there:
    deploy/kubernetes/verify-rbac.yaml

    Exit status 1 if a check failed.
    """
    if context is None and kubeconfig is None:
        for_clusters = (ca_address, ca_roots, ca_server_name, trust_domain, other_context, allow_exec)
        if any(option is not None for option in for_clusters) or other_trusted or require_revocation:
            raise UsageError("options for a cluster, and no cluster", wanted="--context NAME or --kubeconfig FILE")
        return _installed(state_dir, output, strict_plugins=strict_plugins)

    from meshpki_cli import cluster_proof

    return cluster_proof.run(
        cluster_proof.Cluster(kubeconfig, context, other_context, tuple(allow_exec or ()), timeout),
        cluster_proof.endpoint(ca_address, ca_roots, ca_server_name),
        cluster_proof.question(
            trust_domain,
            namespace=namespace,
            audience=audience,
            other_trusted=other_trusted,
            require_revocation=require_revocation,
            revocation_seconds=float(revocation_within),
            legacy_seconds=float(legacy_within),
        ),
        output,
    )


def _installed(state_dir: Path, output: Output, *, strict_plugins: bool) -> int:
    from meshpki import plugins
    from meshpki.provision import journal
    from meshpki_cli.provisioning import verified

    loaded, planned = plugins.load(strict=strict_plugins), journal.read(state_dir).plan
    if planned is None:
        todo = command_for("provision --platform NAME", state_dir)
        raise OperatorNeededError(f"nothing is provisioned in {state_dir}", todo=todo)
    report = verified(loaded, planned)

    def view(page: Page) -> None:
        from meshpki_cli.verify_view import show_checks

        show_checks(page, report)

    emit(output, {"passed": report.passed, "checks": report.checks}, view)
    return ExitCode.DONE if report.passed else ExitCode.ERROR
