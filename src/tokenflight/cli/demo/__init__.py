"""``tokenflight demo``: the library keeps its promises before your eyes."""
