"""The results of experiments, read from their files: statistics, curves, tables and pictures."""
