"""What optimizers and loaders share on a GPU: compiling, memory and streams."""
