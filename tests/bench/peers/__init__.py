"""The farm beside what people would pick instead, with the same weights and the same load: `make bench-peers`."""
