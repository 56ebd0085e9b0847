"""Models of TensorFlow and Keras: what `module:factory` names, and files to convert."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

PAIR = (([None, 7], "left"), ([7], "right"))


class Signatures(tf.Module):
    """A SavedModel with a signature of one input and one of two."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(np.linspace(-1, 1, 21, dtype=np.float32).reshape(7, 3))

    @tf.function(input_signature=[tf.TensorSpec([None, 7], tf.float32, name="x")])
    def scores(self, x):
        return {"scores": tf.nn.softmax(x @ self.weight)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 7], tf.float32, name="left"),
            tf.TensorSpec([7], tf.float32, name="right"),
        ]
    )
    def distance(self, left, right):
        return {"distance": tf.reduce_sum(tf.square(left - right), -1), "both": left + right}


def save_signatures(folder: Path) -> Path:
    module = Signatures()
    tf.saved_model.save(module, str(folder), {"scores": module.scores, "distance": module.distance})
    return folder


class Words(tf.Module):
    """Text in; its operations have no ONNX form."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def lengths(self, text):
        return {"hash": tf.strings.to_hash_bucket_fast(text, 97)}


class Unknown(tf.Module):
    """An operation that ONNX has nothing for."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def solve(self, x):
        return {"y": tf.raw_ops.Igamma(a=tf.abs(x) + 1.0, x=tf.abs(x))}


def save(module: tf.Module, method: str, folder: Path) -> Path:
    tf.saved_model.save(module, str(folder), {"serving_default": getattr(module, method)})
    return folder


@tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
def function(x):
    return tf.math.cumsum(tf.nn.relu(x), axis=1), tf.argmax(x, -1)


def make_function():
    return function


def small_keras() -> keras.Model:
    """Convolutions, a normalisation with statistics, and a recurrent layer."""
    image = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Reshape((6, 48))(x)
    x = keras.layers.GRU(7)(x)
    model = keras.Model(image, keras.layers.Dense(5, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.05, 0.4, w.shape) * (1 if w.ndim == 1 else rng.choice([-1, 1], w.shape))
                       for w in model.get_weights()])  # fmt: skip
    return model


def chars2vec() -> keras.Model:
    """Words as one-hot characters to vectors: the architecture of the package, its weights (HDF5, Keras 2)."""
    import importlib.util

    spec = importlib.util.find_spec("chars2vec")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    weights = Path(spec.submodule_search_locations[0], "trained_models", "eng_50", "weights.h5")
    letters = keras.Input((None, _letters(weights)), name="letters")
    model = keras.Model(letters, keras.layers.LSTM(50)(keras.layers.LSTM(50, return_sequences=True)(letters)))
    model.load_weights(weights)
    return model


def _letters(weights: Path) -> int:
    """Size of the alphabet, from the shape of the first layer's kernel."""
    import h5py

    found = {}
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: found.update({name: item.shape}) if hasattr(item, "shape") else None)
    first = min(name for name in found if "kernel" in name and "recurrent" not in name)
    return found[first][0]
