"""The step of `examples/wgan_gp.py` in PyTorch: a graph that is kept for the second gradient."""

import keras
import torch


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
            self.zero_grad()
            loss, distance = self.critic_loss(x, *self.noise(x))
            loss.backward()
            variables = self.critic.trainable_variables
            with torch.no_grad():
                self.critic_optimizer.apply([v.value.grad for v in variables], variables)
        self.zero_grad()
        noise, _ = self.noise(x)
        torch.mean(-self.critic(self.generator(noise))).backward()
        variables = self.generator.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        return {"loss": loss.detach(), "distance": distance.detach()}

    def critic_loss(self, real, noise, share):
        with torch.no_grad():
            fake = self.generator(noise)
        distance = torch.mean(self.critic(real)) - torch.mean(self.critic(fake))
        mixture = (share * real + (1 - share) * fake).requires_grad_()
        score = torch.sum(self.critic(mixture))
        (slope,) = torch.autograd.grad(score, mixture, create_graph=True)
        norm = torch.sqrt(torch.sum(torch.square(slope), dim=-1) + 1e-12)
        return self.penalty * torch.mean(torch.square(norm - 1)) - distance, distance

    def noise(self, x):
        noise = keras.random.normal((len(x), self.generator.input_shape[1]), seed=self.draws)
        return noise, keras.random.uniform((len(x), 1), seed=self.draws)
