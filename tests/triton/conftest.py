"""Two kinds of process run the tests of the Triton kernels.

With ``TRITON_INTERPRET=1`` set before Triton is imported, every kernel of the process runs in
Triton's interpreter on the CPU: the files below are for such a process only. Without it kernels are
compiled: the other files, one of which starts the first kind of process, so that a plain ``pytest``
runs them all.
"""

from __future__ import annotations

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRETED_FILES = (
    "test_arithmetic.py",
    "test_confident.py",
    "test_launches.py",
    "test_memory.py",
)

collect_ignore = (
    ["test_aot.py", "test_interpreter.py", "test_mutations.py"]
    if INTERPRETED
    else list(INTERPRETED_FILES)
)
