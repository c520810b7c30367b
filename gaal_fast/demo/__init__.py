"""The built-in demo set: a drawn catalogue of which the best possible accuracy is known.

It is a product of its own: nothing here imports another part of ``gaal_fast`` but its errors.
"""

from gaal_fast.demo.folder import DemoPaths, ensure_demo
from gaal_fast.demo.posterior import best_possible, best_possible_error

__all__ = ["DemoPaths", "best_possible", "best_possible_error", "ensure_demo"]
