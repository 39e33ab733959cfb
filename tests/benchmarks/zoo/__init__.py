"""Programs that stand for what people run: published models and idioms of TPU code, none of them of the shipped suite.

Each module is imported by the compiling process; a function's arguments are its attribute ``example_args``.
"""
