"""The commands, one file each: they parse arguments, call the library and print where results are."""
