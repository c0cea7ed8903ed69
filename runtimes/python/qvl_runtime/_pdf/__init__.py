"""pdfium in a process of its own."""
