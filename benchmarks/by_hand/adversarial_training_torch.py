"""The step of `examples/adversarial_training.py` in PyTorch: a graph for each gradient."""

import keras
import torch


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
        given = self.embed(x).detach()
        attack = self.fgm(given, y) if self.steps is None else self.pgd(given, y)
        self.zero_grad()
        loss = self.loss_with_attack(x, y, sample_weight, attack)
        loss.backward()
        variables = self.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        return {"loss": loss.detach()}

    def loss_with_attack(self, x, y, sample_weight, attack):
        given = self.embed(x, training=True)
        outputs = [self.classify(z, training=True) for z in (given, given + attack)]
        plain, attacked = (self.loss(y, output, sample_weight) for output in outputs)
        return (plain + attacked) / 2

    def fgm(self, given, y):
        gradient = self.gradient(given, y)
        axes = tuple(range(1, given.ndim))
        length = torch.sqrt(torch.sum(torch.square(gradient), dim=axes, keepdim=True))
        return self.epsilon * gradient / (length + 1e-12)

    def pgd(self, given, y):
        low, high = -self.epsilon, self.epsilon
        attack = keras.random.uniform(given.shape, low, high, seed=self.starts)
        for _ in range(self.steps):
            gradient = self.gradient(given + attack, y)
            attack = attack + 2.5 * self.epsilon / self.steps * torch.sign(gradient)
            attack = torch.clamp(given + torch.clamp(attack, low, high), 0, 1) - given
        return attack

    def gradient(self, given, y):
        given = given.detach().requires_grad_()
        logits = self.classify(given)
        losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        (gradient,) = torch.autograd.grad(torch.sum(losses), given)
        return gradient
