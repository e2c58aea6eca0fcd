"""JAX: what a step needs and `keras.ops` lacks."""
