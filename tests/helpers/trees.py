"""Comparisons of parameter trees."""

import jax


def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(bool((x != y).any()) for x, y in pairs)
