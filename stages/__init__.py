"""The two stages: extract (clips -> store) and fit (store + labels -> model); score uses both."""
