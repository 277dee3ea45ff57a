"""The `upright` command: its words, and what each command does."""
