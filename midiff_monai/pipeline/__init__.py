"""From a scan to its results: one volume, a batch, a BIDS data set."""
