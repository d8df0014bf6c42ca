"""How to draw from autoregressive networks: naive, by fixed point, with caches."""
