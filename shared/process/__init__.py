"""How any process of ours runs: command line, HTTP server, signals, child processes."""
