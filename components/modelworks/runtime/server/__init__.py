"""What answers requests: HTTP, admission, the model behind it, and what is told of each request."""
