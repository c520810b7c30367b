"""The command: see the package."""

from __future__ import annotations

from tests.triton.mutations.runner import main

if __name__ == "__main__":
    raise SystemExit(main())
