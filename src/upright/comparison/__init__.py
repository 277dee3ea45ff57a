"""What experiments have reached, read from their files: statistics, curves, tables and pictures."""
