"""Measures the accuracy that bundles lose: all answer the same items, and a report compares the answers.

sets → answers (one or more processes per bundle) → metrics, agreement → statistics → summary → report
"""
