"""Mixed precision: a precision per linear, chosen by its measured cost."""
