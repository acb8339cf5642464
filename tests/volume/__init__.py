"""A bulk of many lines through a whole farm whose workers are killed all the time, and its judge: `make volume`."""
