"""Regenerate the `_pb2` modules from the .proto files beside this one: `make proto`."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parent.parent


def main(out: Path = CORE) -> int:
    """Run protoc over every .proto of this folder; returns its exit status. Needs the `dev` extra."""
    from grpc_tools import protoc

    well_known = str(resources.files("grpc_tools") / "_proto")
    files = sorted(str(path.relative_to(CORE)) for path in HERE.glob("*.proto"))
    return int(
        protoc.main(["protoc", f"-I{CORE}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *files])
    )


if __name__ == "__main__":
    sys.exit(main())
