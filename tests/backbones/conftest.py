from layers.conftest import mixed_bfloat16  # noqa: F401  (a fixture)
