"""What the benchmarks measure with: claims, models, engines, counts and tables."""
