"""Token types, their derivation and the engine: pure, no server."""
