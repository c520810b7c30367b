"""Benchmarks: every number the project publishes comes from a module here and lies in
``bench/results/``.
"""
