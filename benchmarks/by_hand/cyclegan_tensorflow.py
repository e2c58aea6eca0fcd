"""The step of `examples/cyclegan.py` in TensorFlow: one tape that gives three gradients."""

import keras
import tensorflow as tf


class Model(keras.Model):
    """As `CycleGAN`."""

    def __init__(self, to_b, to_a, critic_b, critic_a, other_optimizers, cycle):
        super().__init__()
        self.to_b, self.to_a, self.critic_b, self.critic_a = to_b, to_a, critic_b, critic_a
        self.other_optimizers, self.cycle = other_optimizers, cycle
        for net, optimizer in zip((to_a, critic_b, critic_a), other_optimizers, strict=True):
            optimizer.build(net.trainable_variables)
        self.built = True

    def call(self, a):
        return self.to_b(a)

    def train_step(self, data):
        a, b, _ = keras.utils.unpack_x_y_sample_weight(data)
        nets = (self.to_b, self.to_a, self.critic_b, self.critic_a)
        with tf.GradientTape(persistent=True) as tape:
            loss, (cycle, fake_b, fake_a) = self.generator_loss(a, b)
            loss_b = self.critic_loss(self.critic_b, b, tf.stop_gradient(fake_b))
            loss_a = self.critic_loss(self.critic_a, a, tf.stop_gradient(fake_a))
        gradients = [
            tape.gradient(of_net, [v.value for v in net.trainable_variables])
            for of_net, net in zip((loss, loss, loss_b, loss_a), nets)
        ]
        for optimizer, gradient, net in zip(
            (self.optimizer, *self.other_optimizers), gradients, nets
        ):
            optimizer.apply(gradient, net.trainable_variables)
        return {"loss": loss, "cycle": cycle}

    def generator_loss(self, a, b):
        fake_b, fake_a = self.to_b(a), self.to_a(b)
        back_a, back_b = self.to_a(fake_b), self.to_b(fake_a)
        cycle = tf.reduce_mean(tf.abs(back_a - a)) + tf.reduce_mean(tf.abs(back_b - b))
        scores = self.critic_b(fake_b), self.critic_a(fake_a)
        fooling = sum(tf.reduce_mean(tf.square(score - 1)) for score in scores)
        return fooling + self.cycle * cycle, (cycle, fake_b, fake_a)

    def critic_loss(self, critic, real, fake):
        of_real = tf.reduce_mean(tf.square(critic(real) - 1))
        return of_real + tf.reduce_mean(tf.square(critic(fake)))
