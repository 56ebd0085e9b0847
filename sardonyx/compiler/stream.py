"""Neighbouring layers as one step: what lies between them stays in cache (`Stream`, stream_nchw16c_f32.h).

The pass looks for a depthwise convolution next to 1x1 convolutions. It fires where the value
between two layers has no other reader, and where the time of a trip through memory is worth more than the rows that
two bands both compute. The result is the same bit for bit.
"""

from __future__ import annotations

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.program import Block, Buffer, Check, Define, Kernel, Nest, Pointer, Program, Step, Stream
from sardonyx.compiler.tensor import LANES

MOST_OPERANDS = 16  # STREAM_OPERANDS: of an epilogue
LEAST_PROJECTED = 1 << 20  # bytes of a middle from which it is worth projecting by bands


def stream_layers(program: Program) -> None:
    """Replace layers of `program` that go together by one `Stream` each."""
    readers: dict[Buffer, list[Step]] = {}
    for step in program.main.walk():
        for buffer in set(step.reads()) - set(step.writes()):  # an epilogue reads what it finishes
            readers.setdefault(buffer, []).append(step)
    for block in [program.main, *(inner for step in program.main.walk() for inner in step.blocks())]:
        _stream_block(block, readers)


def _stream_block(block: Block, readers: dict[Buffer, list[Step]]) -> None:
    position = {step: number for number, step in enumerate(block.steps)}
    writers = {buffer: step for step in block.steps for buffer in step.writes()}
    replaced: dict[Step, Stream | None] = {}

    def follows(first: Step, second: Step) -> bool:
        """Whether `first` may run as late as `second`."""
        between = block.steps[position[first] + 1 : position[second]]
        return all(isinstance(step, Nest | Kernel | Check | Define) for step in between)

    for step in block.steps:
        middle = _middle(step)
        if middle is None or step in replaced:
            continue
        project = _projection(middle, readers)
        if project is not None and (project not in position or not follows(step, project)):
            project = None
        expand = _expansion(middle, writers, readers)
        if expand is not None and (expand in replaced or not follows(expand, project or middle)):
            expand = None
        if expand is None and project is None:
            continue
        layers = [layer for layer in (expand, middle, project) if layer is not None]
        replaced |= dict.fromkeys(layers)
        flops: Dim = sum((layer.flops for layer in layers), start=0)
        last = layers[-1]
        replaced[last] = Stream(expand, middle, project, node=last.node, operator=last.operator, flops=flops)
    block.steps = [new for step in block.steps if (new := replaced.get(step, step)) is not None]


def _middle(step: Step) -> Kernel | None:
    """The step as the middle of a stream, or None."""
    if isinstance(step, Kernel) and step.name == "depthwise_nchw16c_f32":
        return step if _has_few_operands(step) else None
    return None


def _is_pointwise(kernel: Kernel) -> bool:
    """A 1x1 convolution that reads each position where it writes it."""
    f = kernel.fields
    ones = ("kh", "kw", "stride_h", "stride_w", "groups")
    return (
        kernel.name == "conv_nchw16c_f32"
        and all(f[name] == 1 for name in ones)
        and f["pad_top"] == f["pad_left"] == 0
        and "scale" not in f
        and (f["oh"], f["ow"]) == (f["ih"], f["iw"])
        and _has_few_operands(kernel)
    )


def _has_few_operands(kernel: Kernel) -> bool:
    return kernel.epilogue is None or len({*kernel.epilogue.reads(), *kernel.epilogue.writes()}) <= MOST_OPERANDS


def _is_own(kernel: Kernel) -> bool:
    """Whether the call leaves its result in its own output and nowhere else, and nothing else lies there."""
    alone = ix.product(kernel.domain) == kernel.output[0].size
    return alone and (kernel.epilogue is None or set(kernel.epilogue.writes()) == {kernel.output[0]})


def _finishes_with(kernel: Kernel, buffer: Buffer) -> bool:
    """Whether the epilogue reads `buffer` as a whole: x + depthwise(x), say, whose x then needs its place."""
    return kernel.epilogue is not None and buffer in kernel.epilogue.reads()


def _projection(middle: Kernel, readers: dict[Buffer, list[Step]]) -> Kernel | None:
    """The 1x1 convolution that alone reads the middle, where it is worth running by bands; or None."""
    buffer = middle.output[0]
    users = readers.get(buffer, [])
    if len(users) != 1 or buffer.kind != "temporary" or not _is_own(middle):
        return None
    (project,) = users
    if not isinstance(project, Kernel) or not _is_pointwise(project) or project.fields["x"] != Pointer(buffer):
        return None
    if _finishes_with(project, buffer):
        return None
    return project if _is_at_least(_image_bytes(middle), LEAST_PROJECTED) else None


def _expansion(middle: Kernel, writers: dict[Buffer, Step], readers: dict[Buffer, list[Step]]) -> Kernel | None:
    """The 1x1 convolution that feeds the middle and nothing else, or None."""
    buffer = middle.fields["x"].buffer
    expand = writers.get(buffer)
    if not isinstance(expand, Kernel) or not _is_pointwise(expand) or readers[buffer] != [middle]:
        return None
    if _finishes_with(middle, buffer):
        return None
    return expand if expand.output[0] is buffer and _is_own(expand) and buffer.kind == "temporary" else None


def _image_bytes(kernel: Kernel) -> Dim:
    """Bytes of one image of the output."""
    return 4 * kernel.domain[1] * kernel.domain[2] * LANES


def _is_at_least(size: Dim, least: int) -> bool:
    return not isinstance(size, int) or size >= least
