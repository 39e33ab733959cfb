"""Where the shared data lie; tests that need them skip where they are absent."""

from pathlib import Path

CONVERSATION = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mooncake" / "conversation_trace.jsonl"
