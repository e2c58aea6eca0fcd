"""The step of `examples/word2vec.py` in TensorFlow: a tape over the rows that are read."""

import keras
import tensorflow as tf


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
        inside, there = tf.maximum(neighbours, 0), tf.cast(neighbours >= 0, "float32")
        share = (there / tf.reduce_sum(there, axis=1, keepdims=True))[:, :, None]
        tables = self.vectors.embeddings.value, self.targets.embeddings.value
        rows = tf.gather(tables[0], inside), tf.gather(tables[1], words)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows)
            loss = self.loss_of_rows(*rows, share, words)
        rate = self.optimizer.learning_rate
        for table, gradient, read in zip(tables, tape.gradient(loss, rows), (inside, words)):
            table.scatter_sub(tf.IndexedSlices(rate * gradient, read))
        self.optimizer.iterations.assign_add(1)
        return {"loss": loss}

    def loss_of_rows(self, vectors, targets, share, words):
        mean = tf.reduce_sum(share * vectors, axis=1, keepdims=True)
        scores = tf.reduce_sum(mean * targets, axis=2)
        is_true = tf.cast(tf.range(tf.shape(words)[1]) == 0, "float32")
        counted = tf.cast(words != words[:, :1], "float32") + is_true
        losses = counted * (tf.math.softplus(scores) - is_true * scores)
        return tf.reduce_sum(losses) / tf.cast(tf.shape(words)[0], "float32")
