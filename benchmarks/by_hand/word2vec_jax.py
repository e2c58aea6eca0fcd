"""The step of `examples/word2vec.py` in JAX: gradients by the rows that are read, stateless."""

import jax
import keras
from jax import numpy as jnp


class Model(keras.Model):
    """As `Word2Vec`."""

    def __init__(self, words, size):
        super().__init__()
        small = keras.initializers.RandomUniform(-0.5 / size, 0.5 / size)
        self.vectors = keras.layers.Embedding(words, size, small, name="vectors")
        self.targets = keras.layers.Embedding(words, size, "zeros", name="targets")
        self.vectors.build()
        self.targets.build()
        self.built = True

    def train_step(self, state, data):
        (neighbours, words), _, _ = keras.utils.unpack_x_y_sample_weight(data)
        (vectors, targets), non_trainable, of_optimizer, metrics = state
        inside, there = jnp.maximum(neighbours, 0), jnp.float32(neighbours >= 0)
        share = (there / jnp.sum(there, axis=1, keepdims=True))[:, :, None]
        of_rows = jax.value_and_grad(self.loss_of_rows, argnums=(0, 1))
        loss, gradients = of_rows(vectors[inside], targets[words], share, words)
        with keras.StatelessScope(list(zip(self.optimizer.variables, of_optimizer))):
            rate = self.optimizer.learning_rate
        vectors = vectors.at[inside].add(-rate * gradients[0])
        targets = targets.at[words].add(-rate * gradients[1])
        of_optimizer = [of_optimizer[0] + 1, *of_optimizer[1:]]
        return {"loss": loss}, ([vectors, targets], non_trainable, of_optimizer, metrics)

    def loss_of_rows(self, vectors, targets, share, words):
        mean = jnp.sum(share * vectors, axis=1, keepdims=True)
        scores = jnp.sum(mean * targets, axis=2)
        is_true = jnp.float32(jnp.arange(words.shape[1]) == 0)
        counted = (words != words[:, :1]) + is_true
        losses = counted * (jax.nn.softplus(scores) - is_true * scores)
        return jnp.sum(losses) / len(words)
