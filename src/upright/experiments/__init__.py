"""One configuration over several seeds, grids and searches of configurations: how they are trained."""
