"""The step of `examples/wgan_gp.py` in TensorFlow: a tape in a tape."""

import keras
import tensorflow as tf


class Model(keras.Model):
    """As `WassersteinGAN`."""

    def __init__(self, generator, critic, critic_optimizer, critic_steps, penalty, seed):
        super().__init__()
        self.generator, self.critic = generator, critic
        self.critic_optimizer, self.critic_steps = critic_optimizer, critic_steps
        self.critic_optimizer.build(critic.trainable_variables)
        self.penalty, self.draws = penalty, keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, noise):
        return self.generator(noise)

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        for _ in range(self.critic_steps):
            noise, share = self.noise(x)
            with tf.GradientTape() as tape:
                loss, distance = self.critic_loss(x, noise, share)
            variables = self.critic.trainable_variables
            gradients = tape.gradient(loss, [v.value for v in variables])
            self.critic_optimizer.apply(gradients, variables)
        noise, _ = self.noise(x)
        with tf.GradientTape() as tape:
            generator_loss = -tf.reduce_mean(self.critic(self.generator(noise)))
        variables = self.generator.trainable_variables
        gradients = tape.gradient(generator_loss, [v.value for v in variables])
        self.optimizer.apply(gradients, variables)
        return {"loss": loss, "distance": distance}

    def critic_loss(self, real, noise, share):
        fake = self.generator(noise)
        distance = tf.reduce_mean(self.critic(real)) - tf.reduce_mean(self.critic(fake))
        mixture = share * real + (1 - share) * fake
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(mixture)
            score = tf.reduce_sum(self.critic(mixture))
        slope = tape.gradient(score, mixture)
        norm = tf.sqrt(tf.reduce_sum(tf.square(slope), axis=-1) + 1e-12)
        return self.penalty * tf.reduce_mean(tf.square(norm - 1)) - distance, distance

    def noise(self, x):
        points = tf.shape(x)[0]
        shape = (points, self.generator.input_shape[1])
        noise = keras.random.normal(shape, seed=self.draws)
        return noise, keras.random.uniform((points, 1), seed=self.draws)
