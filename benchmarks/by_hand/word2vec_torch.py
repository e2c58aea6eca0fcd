"""The step of `examples/word2vec.py` in PyTorch: a graph over the rows that are read."""

import keras
import torch


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

    def train_step(self, data):
        (neighbours, words), _, _ = keras.utils.unpack_x_y_sample_weight(data)
        neighbours, words = neighbours.long(), words.long()
        inside, there = neighbours.clamp(min=0), (neighbours >= 0).float()
        share = (there / there.sum(dim=1, keepdim=True))[:, :, None]
        tables = self.vectors.embeddings.value.detach(), self.targets.embeddings.value.detach()
        rows = tables[0][inside].requires_grad_(), tables[1][words].requires_grad_()
        loss = self.loss_of_rows(*rows, share, words)
        gradients = torch.autograd.grad(loss, rows)
        rate = float(self.optimizer.learning_rate)
        for table, gradient, read in zip(tables, gradients, (inside, words)):
            table.index_add_(0, read.flatten(), gradient.flatten(0, 1), alpha=-rate)
        self.optimizer.iterations.assign_add(1)
        return {"loss": loss.detach()}

    def loss_of_rows(self, vectors, targets, share, words):
        mean = (share * vectors).sum(dim=1, keepdim=True)
        scores = (mean * targets).sum(dim=2)
        is_true = (torch.arange(words.shape[1]) == 0).float()
        counted = (words != words[:, :1]).float() + is_true
        losses = counted * (torch.nn.functional.softplus(scores) - is_true * scores)
        return losses.sum() / len(words)
