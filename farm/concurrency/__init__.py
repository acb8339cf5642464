"""Threads, bounded concurrency and retries: each mechanism once, on the standard library and tenacity."""
