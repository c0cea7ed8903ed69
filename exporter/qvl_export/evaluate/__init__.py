"""Measures what a bundle costs in accuracy: two bundles answer the same items, and a report compares the answers.

sets → answers (one or more processes per bundle) → metrics, agreement → statistics → summary → report
"""
