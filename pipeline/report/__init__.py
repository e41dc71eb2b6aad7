"""`pipeline report`: what a run is worth and what it looks at, on one page without a network."""
