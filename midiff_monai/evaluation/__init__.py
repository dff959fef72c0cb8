"""Reference data and scores: metrics, phantoms, simulated scans, baselines."""
