"""What stands around the training in a script: command line, data, files and signals."""
