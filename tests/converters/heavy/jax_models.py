"""Networks in Flax, as functions with example arguments: what `module:factory` names."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

RNG = np.random.default_rng(0)


class Block(nnx.Module):
    """Attention and a perceptron, each after a normalisation and around a residual."""

    def __init__(self, width, heads, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.drop(self.down(nnx.gelu(self.up(self.norm2(x)))))


class ViT(nnx.Module):
    """A vision transformer (arXiv:2010.11929) for images [batch, 32, 32, 3]."""

    def __init__(self, width=48, depth=2, heads=3, patch=8, classes=10, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        self.patches = nnx.Conv(3, width, (patch, patch), (patch, patch), padding="VALID", rngs=rngs)
        self.token = nnx.Param(jnp.asarray(RNG.standard_normal((1, 1, width)), jnp.float32))
        self.places = nnx.Param(jnp.asarray(RNG.standard_normal((1, (32 // patch) ** 2 + 1, width)), jnp.float32))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images):
        x = self.patches(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], 1) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class LSTM(nnx.Module):
    """Words to a class, by the last state of an LSTM that scans over time."""

    def __init__(self, words=101, width=24, classes=5):
        rngs = nnx.Rngs(1)
        self.embedding = nnx.Embed(words, width, rngs=rngs)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(width, 2 * width, rngs=rngs))
        self.head = nnx.Linear(2 * width, classes, rngs=rngs)

    def __call__(self, words):
        return self.head(self.lstm(self.embedding(words))[:, -1])


class LinenLSTM(flax.linen.Module):
    """The same in Linen."""

    @flax.linen.compact
    def __call__(self, words):
        hidden = flax.linen.RNN(flax.linen.OptimizedLSTMCell(24))(flax.linen.Embed(101, 12)(words))
        return flax.linen.Dense(5)(hidden[:, -1])


class ConvNet(flax.linen.Module):
    """Convolutions with batch normalisation, in Linen."""

    @flax.linen.compact
    def __call__(self, x, train=False):
        for features in (16, 32):
            x = flax.linen.Conv(features, (3, 3), strides=(2, 2))(x)
            x = flax.linen.relu(flax.linen.BatchNorm(use_running_average=not train)(x))
        return flax.linen.Dense(10)(flax.linen.avg_pool(x, window_shape=(2, 2)).mean((1, 2)))


def vit():
    return ViT(), (images(2, 32),)


def lstm():
    return LSTM(), (RNG.integers(0, 101, (2, 7)).astype(np.int32),)


def linen_lstm():
    words = RNG.integers(0, 101, (2, 7)).astype(np.int32)
    net = LinenLSTM()
    return net.bind(net.init(jax.random.key(0), words)), (words,)


def linen_conv():
    net = ConvNet()
    variables = net.init(jax.random.key(0), images(1, 32))
    return net.bind(variables), (images(2, 32),)


def images(count, size):
    return RNG.standard_normal((count, size, size, 3)).astype(np.float32)


def tree():
    """Dictionaries in and out."""

    @jax.jit
    def function(state, x):
        hidden = jnp.tanh(state["h"] @ jnp.full((7, 7), 0.1) + x)
        return {"h": hidden, "mean": hidden.mean(-1)}

    return function, ({"h": np.ones((3, 7), np.float32)}, np.ones((3, 7), np.float32))


def fixed():
    """Its result depends on the very size of the batch: no dynamic form."""
    return lambda x: jnp.reshape(x, (2, 6)) @ jnp.ones((6, 3)), (np.ones((4, 3), np.float32),)


def unknown():
    """A call back to Python, which no file can hold."""
    return lambda x: jax.pure_callback(np.sort, x, x), (np.ones((4, 3), np.float32),)


def scaled(x):
    """No factory: the function itself."""
    return x * 2.0 + x.sum(-1, keepdims=True)
