"""Passes over a model's graph."""

from sardonyx.optimizer.fuse_attention import FuseAttention
from sardonyx.optimizer.fuse_quantized import FuseQuantized
from sardonyx.optimizer.fuse_scale import FuseScale
from sardonyx.optimizer.fuse_weights import FuseWeights
from sardonyx.optimizer.move_quantization import MoveQuantization
from sardonyx.optimizer.spread_transposed import SpreadTransposed
from sardonyx.optimizer.stack_in_loops import StackInLoops

# What the compiler applies to every model before lowering, in this order. Their nodes are our own, not the standard's.
NATIVE_PASSES = (
    FuseAttention(),
    StackInLoops(),
    SpreadTransposed(),
    MoveQuantization(),
    FuseQuantized(),
    FuseWeights(),
    FuseScale(),
)
