"""The compiler's out-of-memory messages: the lines that matter."""

from mallocgame.workloads.xla.out_of_memory import shortened

KERNEL = (
    "JaxRuntimeError: RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space vmem. "
    "Used 24.00M of 16.00M vmem. Exceeded vmem capacity by 8.00M.  Program vmem requirement 24.00M:     scoped 24M "
    'Largest program allocations in vmem:    1. Size: 16.00M      Operator: op_name="jit(f)/pallas_call"      Shape: '
    "u8[16777216]{0}      Unpadded size: 16.00M      Tag: input window allocation for operator input 1. The window "
    "shape is f32[2048,2048], while the full shape is f32[4096,2048]. The u8 shape/size is raw.    XLA label: "
    "f.1 = custom-call(x.1)      Allocation type: scoped      ==========================      2. Size: 8.00M      Tag: "
    "output window allocation. The window shape is f32[1024,2048], while the full shape is f32[4096,2048].      "
    "Allocation type: scoped"
)
PROGRAM = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by "
    "4.35G.  Total hbm usage >= 20.35G:  Largest program allocations in hbm:  1. Size: 8.00G  Operator: "
    'op_name="jit(step)/mul" source_file="a.py"  Shape: f32[65536,4]{1,0:T(8,128)}  Unpadded size: 256.00M  Extra '
    "memory due to padding: 7.75G (32.0x expansion)  XLA label: fusion.1  Allocation type: HLO temp  ====="
)


def test_a_kernel_is_told_by_its_windows() -> None:
    text = shortened(KERNEL)
    start = (
        "Ran out of memory in memory space vmem. Used 24.00M of 16.00M vmem. Exceeded vmem capacity by 8.00M. Largest: "
    )
    assert text == (
        f"{start}16.00M input window allocation for operator input 1. The window shape is f32[2048,2048], while the "
        "full shape is f32[4096,2048]; 8.00M output window allocation. The window shape is f32[1024,2048], while the "
        "full shape is f32[4096,2048]."
    )


def test_a_program_is_told_by_its_arrays_and_their_padding() -> None:
    text = shortened(PROGRAM)
    assert text.endswith("by 4.35G. Largest: 8.00G f32[65536,4] (256.00M without padding) in jit(step)/mul")


def test_other_messages_stay_as_they_are() -> None:
    assert shortened("RESOURCE_EXHAUSTED: something else") == "RESOURCE_EXHAUSTED: something else"
