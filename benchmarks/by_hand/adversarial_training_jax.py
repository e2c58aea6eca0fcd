"""The step of `examples/adversarial_training.py` in JAX: stateless, with all that changes."""

import jax
import keras
from jax import numpy as jnp


class Model(keras.Model):
    """As `Adversarial`."""

    def __init__(self, embed, classify, epsilon, steps=None, seed=0):
        super().__init__()
        self.embed, self.classify, self.epsilon, self.steps = embed, classify, epsilon, steps
        self.starts = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, x, training=None):
        return self.classify(self.embed(x, training=training), training=training)

    def train_step(self, state, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        trainable, non_trainable, optimizer_state, metrics = state
        place = [v is self.starts.state for v in self.non_trainable_variables].index(True)
        given, of_classify = self.embedded(trainable, x)
        if self.steps is None:
            attack = self.fgm(of_classify, given, y)
        else:
            seed = non_trainable[place]
            attack = self.pgd(of_classify, given, y, seed)
            non_trainable = list(non_trainable)
            non_trainable[place] = seed + jnp.array([0, 1], seed.dtype)
        of_weights = jax.value_and_grad(self.loss_with_attack)
        loss, gradients = of_weights(trainable, x, y, sample_weight, attack)
        trainable, optimizer_state = self.optimizer.stateless_apply(
            optimizer_state, gradients, trainable
        )
        return {"loss": loss}, (trainable, non_trainable, optimizer_state, metrics)

    def embedded(self, trainable, x):
        split = len(self.embed.trainable_variables)
        given, _ = self.embed.stateless_call(trainable[:split], [], x)
        return given, trainable[split:]

    def classified(self, of_classify, given):
        return self.classify.stateless_call(of_classify, [], given)[0]

    def loss_with_attack(self, trainable, x, y, sample_weight, attack):
        given, of_classify = self.embedded(trainable, x)
        plain, attacked = (
            self.loss(y, self.classified(of_classify, z), sample_weight)
            for z in (given, given + attack)
        )
        return (plain + attacked) / 2

    def fgm(self, of_classify, given, y):
        gradient = jax.grad(self.total_loss)(given, of_classify, y)
        axes = tuple(range(1, given.ndim))
        length = jnp.sqrt(jnp.sum(jnp.square(gradient), axis=axes, keepdims=True))
        return self.epsilon * gradient / (length + 1e-12)

    def pgd(self, of_classify, given, y, seed):
        low, high = -self.epsilon, self.epsilon
        attack = keras.random.uniform(given.shape, low, high, seed=seed)
        for _ in range(self.steps):
            gradient = jax.grad(self.total_loss)(given + attack, of_classify, y)
            attack = attack + 2.5 * self.epsilon / self.steps * jnp.sign(gradient)
            attack = jnp.clip(given + jnp.clip(attack, low, high), 0, 1) - given
        return attack

    def total_loss(self, given, of_classify, y):
        logits = self.classified(of_classify, given)
        return jnp.sum(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
