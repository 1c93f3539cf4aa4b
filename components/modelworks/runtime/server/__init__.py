"""The server: HTTP, admission, the model behind it, and the records of each request."""
