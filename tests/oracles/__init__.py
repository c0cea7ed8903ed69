"""Independent answers that the project's own are held against."""
