"""What `kv-gym` offers on the command line, one file per group of commands."""
