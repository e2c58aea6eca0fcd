"""TensorFlow: what a step needs of it and `keras.ops` has not."""
