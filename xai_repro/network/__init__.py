"""What is done to a network: cutting it, running its head, changing its backward pass, playing the game of its channels."""
