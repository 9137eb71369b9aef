"""The camera box: sources, spool, link and sinks as one process."""
