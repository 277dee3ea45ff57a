"""Measurements of upright against other libraries: its speed, and what its final policies reach.

Each command is run from the root of the repository: `python -m benchmarks.speed.benchmark --help`.
"""
