"""Benchmarks of packhorse and its peers: `python -m benchmarks` prints one table.

The package root stays empty of imports: the worker files in `benchmarks/apps` run inside the peers' own
environments, where neither packhorse nor its dependencies are installed.
"""
