"""The collector after `settle`, in a process of its own: the setting is the whole process's."""

from __future__ import annotations

import json
import subprocess
import sys

from meshpki.runtime.garbage import YOUNG

_SCRIPT = """
import gc, json, weakref
from meshpki.runtime.garbage import settle

class Node:
    pass

old = Node()
old.itself = old
settle()
frozen = gc.get_freeze_count()
new = Node()
new.itself = new
gone = [weakref.ref(new), weakref.ref(old)]
del new, old
gc.collect()
print(json.dumps([frozen > 1000, gc.isenabled(), gc.get_threshold()[0], [ref() is None for ref in gone]]))
"""


def test_what_was_there_stays_and_new_cycles_are_still_collected() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, True, YOUNG, [True, False]]
