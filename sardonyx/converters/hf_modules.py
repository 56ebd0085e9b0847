"""Models of Transformers as modules that take and give tensors in a fixed order, as exporters want it.

A decoder's memory of earlier tokens (the keys and values of each attention, ``past_key_values``) becomes inputs, and
what it has grown to becomes outputs (``present``), under the names that are usual for such files. A past of length 0
starts a text. Unlike the other files of this folder, this one can be imported only where PyTorch is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sardonyx.converters.source import Input
from sardonyx.errors import ConversionError


class Part(torch.nn.Module):
    """A model, or a part of one, whose inputs and outputs have names and an order.

    Args:
        model: of Transformers.
        inputs: in order.
        outputs: names, in order; those that the model does not give are left out.
    """

    def __init__(self, model: Any, inputs: Sequence[Input], outputs: Sequence[str]):
        super().__init__()
        self.model = model
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.eval()

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in order."""
        found = self.compute({each.name: value for each, value in zip(self.inputs, values, strict=True)})
        return tuple(found[name] for name in self.outputs if isinstance(found.get(name), torch.Tensor))

    def compute(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        """All outputs by name."""
        return self.model(**values, return_dict=True)


class SentenceEmbedding(Part):
    """An encoder with the pooling that a folder of sentence-transformers asks for.

    Args:
        model: the encoder.
        inputs: in order.
        steps: functions of the tokens' embeddings (batch, length, width), or of the sentence's (batch, width), and the
            mask.
    """

    def __init__(self, model: Any, inputs: Sequence[Input], steps: Sequence[Callable[..., torch.Tensor]]):
        super().__init__(model, inputs, ("token_embeddings", "sentence_embedding"))
        self.steps = list(steps)

    def compute(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        tokens = self.model(**values, return_dict=True).last_hidden_state
        found = tokens
        for step in self.steps:
            found = step(found, values["attention_mask"])
        return {"token_embeddings": tokens, "sentence_embedding": found}


def mean_of_tokens(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens that are no padding."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def first_token(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The embedding of the first token."""
    del mask
    return tokens[:, 0]


def max_of_tokens(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest value over the tokens that are no padding."""
    return tokens.masked_fill(mask.unsqueeze(-1) == 0, -1e9).max(1).values


def unit_length(sentence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The embedding with Euclidean length 1."""
    del mask
    return torch.nn.functional.normalize(sentence, p=2, dim=1)


class Decoder(Part):
    """A decoder that is given tokens, a mask over past and tokens, and its past.

    Positions follow from the mask, so that texts padded on the left start at position 0 like those that are not.
    """

    def __init__(self, model: Any, inputs: Sequence[Input]):
        past = past_inputs(model, "past_key_values.{}.{}", "past_length")
        mask = Input("attention_mask", "int64", ("batch", "past_length + length"), 0, 1, padding="left")
        outputs = [each.name.replace("past_key_values", "present") for each in past]
        super().__init__(model, [inputs[0], mask, *past], ["logits", *outputs])
        self.positions = "position_ids" in inspect.signature(model.forward).parameters

    def compute(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        ids, mask = values["input_ids"], values["attention_mask"]
        more = {}
        if self.positions:
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found = self.model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            return_dict=True,
            **{memory_name(self.model): cache_of(list(values.values())[2:])},
            **more,
        )
        return {"logits": found.logits, **named(memory_of(found), "present.{}.{}")}


class Encoder(Part):
    """The first half of a model that reads one text, or sound, and writes another."""

    def __init__(self, model: Any, inputs: Sequence[Input]):
        super().__init__(model.get_encoder(), inputs, ("last_hidden_state",))


class FirstDecoder(Part):
    """The second half for the first tokens: no past yet, and the keys and values of what was read come out too."""

    def __init__(self, model: Any, inputs: Sequence[Input]):
        width = encoder_width(model)
        hidden = Input("encoder_hidden_states", "float32", ("batch", "encoder_length", width))
        given = [_ids(model), *mask_of_encoder(inputs), hidden]
        layers = range(len(encoder_decoder_cache(model).self_attention_cache.layers))
        kinds = [f"{side}.{what}" for side in ("decoder", "encoder") for what in ("key", "value")]
        super().__init__(model, given, ["logits", *(f"present.{i}.{kind}" for i in layers for kind in kinds)])

    def compute(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        found = run_decoder(self.model, values, values["encoder_hidden_states"], None)
        cache = memory_of(found)
        return {
            "logits": found.logits,
            **named(cache.self_attention_cache, "present.{}.decoder.{}"),
            **named(cache.cross_attention_cache, "present.{}.encoder.{}"),
        }


class NextDecoder(Part):
    """The second half for the tokens that follow: both memories go in, that of the written text comes out longer."""

    def __init__(self, model: Any, inputs: Sequence[Input]):
        own = past_inputs(model, "past_key_values.{}.decoder.{}", "past_length")
        read = past_inputs(model, "past_key_values.{}.encoder.{}", "encoder_length", cross=True)
        outputs = [each.name.replace("past_key_values", "present") for each in own]
        super().__init__(model, [_ids(model), *mask_of_encoder(inputs), *own, *read], ["logits", *outputs])
        self.width = encoder_width(model)
        self.count = len(own)

    def compute(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        from transformers.cache_utils import EncoderDecoderCache

        memory = [value for name, value in values.items() if name.startswith("past_key_values")]
        own, read = memory[: self.count], memory[self.count :]
        cache = EncoderDecoderCache(cache_of(own), cache_of(read))
        cache.is_updated = dict.fromkeys(range(self.count // 2), True)
        # What was read is in the memory; of its hidden states only the shape is asked.
        hidden = read[0].new_zeros((read[0].shape[0], read[0].shape[2], self.width))
        found = run_decoder(self.model, values, hidden, cache)
        return {
            "logits": found.logits,
            **named(memory_of(found).self_attention_cache, "present.{}.decoder.{}"),
        }


def run_decoder(model: Any, values: Mapping[str, torch.Tensor], hidden: torch.Tensor, cache: Any) -> Any:
    """The decoder of an encoder-decoder model on ``input_ids``."""
    from transformers.modeling_outputs import BaseModelOutput

    mask = values.get("encoder_attention_mask")
    return model(
        decoder_input_ids=values["input_ids"],
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        use_cache=True,
        return_dict=True,
        **{memory_name(model): cache},
        **({} if mask is None else {"attention_mask": mask}),
    )


def memory_name(model: Any) -> str:
    """What ``forward`` calls the memory of earlier tokens: ``cache`` since Transformers 5.20."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def memory_of(outputs: Any) -> Any:
    """The memory among the outputs; None: there is none."""
    found = outputs.get("cache")
    return outputs.get("past_key_values") if found is None else found


def cache_of(values: Sequence[torch.Tensor]) -> Any:
    """The memory that holds these keys and values, layer by layer."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for key, value in zip(values[::2], values[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = key, value, True
        layer.dtype, layer.device = key.dtype, key.device
        cache.layers.append(layer)
    return cache


def named(cache: Any, form: str) -> dict[str, torch.Tensor]:
    """Keys and values of a memory by name."""
    found = {}
    for number, layer in enumerate(cache.layers):
        found[form.format(number, "key")] = layer.keys
        found[form.format(number, "value")] = layer.values
    return found


def past_inputs(model: Any, form: str, length: str, cross: bool = False) -> list[Input]:
    """The memory of `model` as inputs: (batch, heads, length, width of a head), as a first run makes it."""
    found = []
    if model.config.is_encoder_decoder:
        both = encoder_decoder_cache(model)
        cache = both.cross_attention_cache if cross else both.self_attention_cache
    else:
        cache = decoder_cache(model)
    for number, layer in enumerate(cache.layers):
        for what, value in (("key", layer.keys), ("value", layer.values)):
            shape = ("batch", value.shape[1], length, value.shape[3])
            found.append(Input(form.format(number, what), "float32", shape))
    return found


def decoder_cache(model: Any) -> Any:
    """What a decoder remembers of two texts of three tokens.

    Raises:
        ConversionError: it is no list of keys and values of four dimensions.
    """
    with torch.no_grad():
        found = model(input_ids=torch.ones((2, 3), dtype=torch.int64), use_cache=True, return_dict=True)
    return _checked(model, memory_of(found), 3)


def encoder_decoder_cache(model: Any) -> Any:
    """What the decoder of an encoder-decoder model remembers of three tokens, and of four that were read."""
    hidden = torch.zeros((2, 4, encoder_width(model)))
    with torch.no_grad():
        found = run_decoder(model, {"input_ids": torch.ones((2, 3), dtype=torch.int64)}, hidden, None)
    _checked(model, getattr(memory_of(found), "self_attention_cache", None), 3)
    return memory_of(found)


def _checked(model: Any, cache: Any, length: int) -> Any:
    layers = getattr(cache, "layers", None) or []
    fits = [getattr(layer.keys, "ndim", 0) == 4 and layer.keys.shape[2] == length for layer in layers]
    if not layers or not all(fits):
        raise ConversionError(
            f"{type(model).__name__} remembers earlier tokens in a {type(cache).__name__} that is no list of keys and "
            "values",
            hint="Without memory, each run over the whole text: --option past=no.",
        )
    return cache


def encoder_width(model: Any) -> int:
    """Size of one of the encoder's hidden states."""
    config = model.config
    return int(getattr(config, "d_model", None) or config.hidden_size)


def _ids(model: Any) -> Input:
    return Input("input_ids", "int64", ("batch", "length"), 0, model.config.vocab_size - 1)


def mask_of_encoder(inputs: Sequence[Input]) -> list[Input]:
    """The encoder's mask, as the decoder takes it; sound has none."""
    if not any(each.name == "attention_mask" for each in inputs):
        return []
    shape = ("batch", "encoder_length")
    return [Input("encoder_attention_mask", "int64", shape, 0, 1, padding="right")]
