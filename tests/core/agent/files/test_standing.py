"""How the files stand, in the words of readiness and of the status file."""

from __future__ import annotations

import pytest

from meshpki.agent.files.standing import FilesStanding, fields, not_written

NOW = 1000.0
FULL = "could not write the files in /certs: No space left on device"


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (FilesStanding(ends=1001), ()),
        (FilesStanding(ends=1001, trouble=FULL), ()),
        (FilesStanding(), ("there are no files yet",)),
        (FilesStanding(trouble=FULL), (f"there are no files yet: {FULL}",)),
        (FilesStanding(ends=1000, trouble=FULL), (f"the certificate in the files expired 0 s ago: {FULL}",)),
        (FilesStanding(ends=940, trouble=FULL), (f"the certificate in the files expired 60 s ago: {FULL}",)),
    ],
)
def test_files_that_hold_a_valid_certificate_are_good_enough(standing: FilesStanding, said: tuple[str, ...]) -> None:
    assert not_written(standing, NOW) == said


def test_what_the_status_file_says() -> None:
    assert fields(FilesStanding()) == {"not_after": 0, "trouble": ""}
    assert fields(FilesStanding(ends=7, trouble=FULL)) == {"not_after": 7, "trouble": FULL}
