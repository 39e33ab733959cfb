"""Where the shared data lie; tests that need them skip where they are absent."""

from tests.paths import SHARED_DATA

CONVERSATION = SHARED_DATA / "mooncake" / "conversation_trace.jsonl"
