"""The table of commands: name, module, help line. All that `meshpki --help` reads; no command is imported for it."""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A command: `module` below `meshpki_cli.commands` holds its function `run`. A group has `children` instead."""

    name: str
    help: str
    module: str = ""
    children: tuple[Entry, ...] = ()


class Section(NamedTuple):
    """Commands that a reader looks for together."""

    title: str
    entries: tuple[Entry, ...]


CA: Final = (
    Entry("init", "Make a root and an issuing certificate with their keys in a directory", "ca_init"),
    Entry("serve", "Serve certificates to workloads, until stopped", "ca_serve"),
    Entry("show", "Show the certificates of a CA: who, until when, which digest", "ca_show"),
)
AGENT: Final = (
    Entry("run", "Keep certificates fresh and serve them to Envoy and SPIFFE clients, until stopped", "agent_run"),
)
TOKEN: Final = (Entry("inspect", "Explain offline whether a token is trustworthy, and why not", "token_inspect"),)
AUDIT: Final = (
    Entry("verify", "Find any edited, cut or missing record of an audit log", "audit_verify"),
    Entry("tail", "Show the last records of an audit log", "audit_tail"),
)

SECTIONS: Final = (
    Section(
        "Provision a platform",
        (
            Entry("detect", "Find out what a cluster can do, and on what evidence", "detect"),
            Entry("provision", "Detect, show the plan, ask, apply it, verify", "provision"),
            Entry("apply", "Apply a plan that was saved and reviewed", "apply"),
            Entry("status", "Show what runs and how fresh each workload's certificate is", "status"),
            Entry("verify", "Prove by a real round that identities are issued, and wrong tokens refused", "verify"),
            Entry("deprovision", "Remove all that provision made, and nothing else", "deprovision"),
            Entry("run", "Keep a provisioned platform running in the foreground", "run"),
            Entry("plugins", "List the platforms and plugins, with the health of each", "plugins"),
        ),
    ),
    Section(
        "The parts",
        (
            Entry("ca", "The certificate authority: init, serve, show", children=CA),
            Entry("agent", "The agent beside a workload, or on a node: run", children=AGENT),
            Entry("token", "Service-account tokens: inspect", children=TOKEN),
            Entry("audit", "The log of issued certificates: verify, tail", children=AUDIT),
            Entry("version", "Show the version of meshpki and of what it rests on", "version"),
        ),
    ),
)
