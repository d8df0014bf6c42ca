"""Settings of every method; installed as `picjax.configs`."""
