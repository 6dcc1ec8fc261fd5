"""Read the committed records of data/benchmarks and turn them into tables."""
