"""The step of `examples/cyclegan.py` in PyTorch: three gradients before the first update."""

import keras
import torch


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
        variables = [net.trainable_variables for net in nets]
        values = [[v.value for v in of_net] for of_net in variables]
        loss, (cycle, fake_b, fake_a) = self.generator_loss(a, b)
        both = torch.autograd.grad(loss, values[0] + values[1])
        gradients = [both[: len(values[0])], both[len(values[0]) :]]
        for critic, of_critic, real, fake in zip(
            nets[2:], values[2:], (b, a), (fake_b.detach(), fake_a.detach())
        ):
            critic_loss = self.critic_loss(critic, real, fake)
            gradients.append(torch.autograd.grad(critic_loss, of_critic))
        optimizers = (self.optimizer, *self.other_optimizers)
        with torch.no_grad():
            for optimizer, gradient, of_net in zip(optimizers, gradients, variables):
                optimizer.apply(list(gradient), of_net)
        return {"loss": loss.detach(), "cycle": cycle.detach()}

    def generator_loss(self, a, b):
        fake_b, fake_a = self.to_b(a), self.to_a(b)
        back_a, back_b = self.to_a(fake_b), self.to_b(fake_a)
        cycle = torch.mean(torch.abs(back_a - a)) + torch.mean(torch.abs(back_b - b))
        scores = self.critic_b(fake_b), self.critic_a(fake_a)
        fooling = sum(torch.mean(torch.square(score - 1)) for score in scores)
        return fooling + self.cycle * cycle, (cycle, fake_b, fake_a)

    def critic_loss(self, critic, real, fake):
        of_real = torch.mean(torch.square(critic(real) - 1))
        return of_real + torch.mean(torch.square(critic(fake)))
