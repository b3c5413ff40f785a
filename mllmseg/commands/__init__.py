"""Groups of commands, one a file, which the command line puts together."""
