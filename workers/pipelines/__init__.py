"""What turns requests into images: the only home of torch and diffusers."""
