"""The generated modules are what protoc makes of the .proto files today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.wire import generate

if TYPE_CHECKING:
    from pathlib import Path


def test_generated_modules_are_up_to_date(tmp_path: Path) -> None:
    assert generate.main(tmp_path) == 0
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "meshpki" / "wire").iterdir()}
    assert len(fresh) == 2 * len(list(generate.HERE.glob("*.proto")))
    kept = {path.name: path.read_bytes() for path in generate.HERE.glob("*_pb2.py*")}
    assert kept == fresh, "run `make proto`"
