"""Ways to look at a run: the terminal, plots, a window, a video."""
