"""TensorFlow: what a step needs and `keras.ops` lacks."""
