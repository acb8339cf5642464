"""What turns requests into pictures: the only home of torch and diffusers."""
