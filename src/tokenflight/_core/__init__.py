"""The engine of a refresher. Only `tokenflight.refresher` imports it."""
