"""The step of `examples/adversarial_training.py` in TensorFlow: a tape for each gradient."""

import keras
import tensorflow as tf


class Model(keras.Model):
    """As `Adversarial`."""

    def __init__(self, embed, classify, epsilon, steps=None, seed=0):
        super().__init__()
        self.embed, self.classify, self.epsilon, self.steps = embed, classify, epsilon, steps
        self.starts = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, x, training=None):
        return self.classify(self.embed(x, training=training), training=training)

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        given = self.embed(x)
        attack = self.fgm(given, y) if self.steps is None else self.pgd(given, y)
        with tf.GradientTape() as tape:
            loss = self.loss_with_attack(x, y, sample_weight, attack)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        return {"loss": loss}

    def loss_with_attack(self, x, y, sample_weight, attack):
        given = self.embed(x, training=True)
        outputs = [self.classify(z, training=True) for z in (given, given + attack)]
        plain, attacked = (self.loss(y, output, sample_weight) for output in outputs)
        return (plain + attacked) / 2

    def fgm(self, given, y):
        gradient = self.gradient(given, y)
        axes = list(range(1, len(given.shape)))
        length = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=axes, keepdims=True))
        return self.epsilon * gradient / (length + 1e-12)

    def pgd(self, given, y):
        low, high = -self.epsilon, self.epsilon
        attack = keras.random.uniform(tf.shape(given), low, high, seed=self.starts)
        for _ in range(self.steps):
            gradient = self.gradient(given + attack, y)
            attack = attack + 2.5 * self.epsilon / self.steps * tf.sign(gradient)
            attack = tf.clip_by_value(given + tf.clip_by_value(attack, low, high), 0, 1) - given
        return attack

    def gradient(self, given, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(given)
            logits = self.classify(given)
            loss = tf.reduce_sum(
                keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
            )
        return tape.gradient(loss, given)
