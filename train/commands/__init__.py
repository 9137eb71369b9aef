"""The command line of training; the only room of training that knows options."""
