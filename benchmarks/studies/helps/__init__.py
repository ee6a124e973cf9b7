"""Does weighing by gradients help at all? See `benchmarks.studies.helps.__main__`."""
