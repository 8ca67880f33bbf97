"""One run and its output folder: training from a configuration, the dry run, and the run record."""
