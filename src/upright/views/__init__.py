"""What a person sees of a run: the terminal, plots, a window, a video."""
