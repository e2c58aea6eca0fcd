"""The step of `examples/cyclegan.py` in JAX: stateless, all that changes goes in and comes out."""

import jax
import keras
from jax import numpy as jnp


class Model(keras.Model):
    """As `CycleGAN`."""

    def __init__(self, to_b, to_a, critic_b, critic_a, other_optimizers, cycle):
        super().__init__()
        self.to_b, self.to_a, self.critic_b, self.critic_a = to_b, to_a, critic_b, critic_a
        self.other_optimizers, self.cycle = other_optimizers, cycle
        for net, optimizer in zip((to_a, critic_b, critic_a), other_optimizers, strict=True):
            optimizer.build(net.trainable_variables)
        # Keras knows the optimizer of `compile` alone; as weights of the model these are kept too.
        self.other_states = [v for optimizer in other_optimizers for v in optimizer.variables]
        self.built = True

    def call(self, a):
        return self.to_b(a)

    def train_step(self, state, data):
        a, b, _ = keras.utils.unpack_x_y_sample_weight(data)
        trainable, non_trainable, to_b_state, metrics = state
        nets, trainable = (self.to_b, self.to_a, self.critic_b, self.critic_a), list(trainable)
        values = [[trainable.pop(0) for _ in net.trainable_variables] for net in nets]
        place = {id(v): i for i, v in enumerate(self.non_trainable_variables)}
        places = [[place[id(v)] for v in o.variables] for o in self.other_optimizers]
        states = [to_b_state, *([non_trainable[i] for i in at] for at in places)]
        of_generators = jax.value_and_grad(self.generator_loss, has_aux=True)
        (loss, (cycle, *fakes)), gradients = of_generators(values[:2], values[2:], a, b)
        for critic, of_critic, real, fake in zip(nets[2:], values[2:], (b, a), fakes):
            gradients.append(jax.grad(self.critic_loss)(of_critic, critic, real, fake))
        for i, optimizer in enumerate((self.optimizer, *self.other_optimizers)):
            values[i], states[i] = optimizer.stateless_apply(states[i], gradients[i], values[i])
        non_trainable = list(non_trainable)
        for at, of_optimizer in zip(places, states[1:]):
            for i, value in zip(at, of_optimizer):
                non_trainable[i] = value
        trainable = [value for of_net in values for value in of_net]
        return {"loss": loss, "cycle": cycle}, (trainable, non_trainable, states[0], metrics)

    def generator_loss(self, of_generators, of_critics, a, b):
        to_b, to_a = map(self.called_with, (self.to_b, self.to_a), of_generators)
        critic_b, critic_a = map(self.called_with, (self.critic_b, self.critic_a), of_critics)
        fake_b, fake_a = to_b(a), to_a(b)
        back_a, back_b = to_a(fake_b), to_b(fake_a)
        cycle = jnp.mean(jnp.abs(back_a - a)) + jnp.mean(jnp.abs(back_b - b))
        scores = critic_b(fake_b), critic_a(fake_a)
        fooling = sum(jnp.mean(jnp.square(score - 1)) for score in scores)
        return fooling + self.cycle * cycle, (cycle, fake_b, fake_a)

    def critic_loss(self, values, critic, real, fake):
        scores = self.called_with(critic, values)
        return jnp.mean(jnp.square(scores(real) - 1)) + jnp.mean(jnp.square(scores(fake)))

    def called_with(self, net, values):
        return lambda images: net.stateless_call(values, [], images)[0]
