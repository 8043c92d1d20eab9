"""Parts that the experiments share; none of them is a command."""
