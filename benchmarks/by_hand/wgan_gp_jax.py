"""The step of `examples/wgan_gp.py` in JAX: stateless, all that changes goes in and comes out."""

import jax
import keras
from jax import numpy as jnp


class Model(keras.Model):
    """As `WassersteinGAN`."""

    def __init__(self, generator, critic, critic_optimizer, critic_steps, penalty, seed):
        super().__init__()
        self.generator, self.critic = generator, critic
        self.critic_optimizer, self.critic_steps = critic_optimizer, critic_steps
        self.critic_optimizer.build(critic.trainable_variables)
        # Keras knows the optimizer of `compile` alone; as weights of the model these are kept too.
        self.critic_state = critic_optimizer.variables
        self.penalty, self.draws = penalty, keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, noise):
        return self.generator(noise)

    def train_step(self, state, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        trainable, non_trainable, generator_state, metrics = state
        split = len(self.generator.trainable_variables)
        generator, critic = trainable[:split], trainable[split:]
        place = {id(v): i for i, v in enumerate(self.non_trainable_variables)}
        seed = non_trainable[place[id(self.draws.state)]]
        at = [place[id(v)] for v in self.critic_optimizer.variables]
        critic_state = [non_trainable[i] for i in at]
        for _ in range(self.critic_steps):
            (noise, share), seed = self.noise(seed, len(x))
            of_critic = jax.value_and_grad(self.critic_loss, has_aux=True)
            (loss, distance), gradients = of_critic(critic, generator, x, noise, share)
            critic, critic_state = self.critic_optimizer.stateless_apply(
                critic_state, gradients, critic
            )
        (noise, _), seed = self.noise(seed, len(x))
        gradients = jax.grad(self.generator_loss)(generator, critic, noise)
        generator, generator_state = self.optimizer.stateless_apply(
            generator_state, gradients, generator
        )
        non_trainable = list(non_trainable)
        non_trainable[place[id(self.draws.state)]] = seed
        for i, value in zip(at, critic_state):
            non_trainable[i] = value
        state = [*generator, *critic], non_trainable, generator_state, metrics
        return {"loss": loss, "distance": distance}, state

    def critic_loss(self, critic, generator, real, noise, share):
        fake, _ = self.generator.stateless_call(generator, [], noise)

        def scores(x):
            return self.critic.stateless_call(critic, [], x)[0]

        distance = jnp.mean(scores(real)) - jnp.mean(scores(fake))
        slope = jax.grad(lambda x: jnp.sum(scores(x)))(share * real + (1 - share) * fake)
        norm = jnp.sqrt(jnp.sum(jnp.square(slope), axis=-1) + 1e-12)
        return self.penalty * jnp.mean(jnp.square(norm - 1)) - distance, distance

    def generator_loss(self, generator, critic, noise):
        fake, _ = self.generator.stateless_call(generator, [], noise)
        scores, _ = self.critic.stateless_call(critic, [], fake)
        return -jnp.mean(scores)

    def noise(self, seed, points):
        following = seed + jnp.array([0, 1], seed.dtype)
        noise = keras.random.normal((points, self.generator.input_shape[1]), seed=seed)
        share = keras.random.uniform((points, 1), seed=following)
        return (noise, share), following + jnp.array([0, 1], seed.dtype)
