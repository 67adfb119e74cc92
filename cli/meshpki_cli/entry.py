"""Where the `meshpki` program begins: nothing is loaded before it is settled what a signal does meanwhile."""

from __future__ import annotations

from meshpki_cli import early_signals


def main() -> None:
    """Entry point of the `meshpki` script and of `python -m meshpki_cli`."""
    early_signals.leave_at_once()
    from meshpki_cli.app import app

    app()
