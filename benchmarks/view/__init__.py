"""The viewer under load, and the pictures of it in the documentation."""
