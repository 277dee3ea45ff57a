"""Every setting of a run, named values of them, and how they are checked and read."""
