"""Stage one: a folder of clips becomes rows of a feature store."""
