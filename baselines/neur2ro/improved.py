"""The old name of ``search``, for one release."""

from mallocgame.baselines.neur2ro.search import SearchConfig as ImprovedConfig
from mallocgame.baselines.neur2ro.search import solve_search as solve_improved

__all__ = ["ImprovedConfig", "solve_improved"]
