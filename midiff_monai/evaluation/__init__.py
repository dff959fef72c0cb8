"""Truth and scores: metrics, phantoms, simulated scans, baselines."""
