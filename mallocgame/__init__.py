"""Plan where the tensors of an ML program live on an accelerator, and when they move."""

from mallocgame.registration import register_when_gymnasium_loads

register_when_gymnasium_loads()
