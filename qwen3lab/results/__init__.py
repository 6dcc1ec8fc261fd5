"""Read the committed benchmark records of data/benchmarks and turn them into tables."""
