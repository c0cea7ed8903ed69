"""What a bundle costs in accuracy: the same items answered by two bundles, compared with statistics, drawn as a page.

dataset → answering (a process a bundle) → metrics, agreement → statistics → summary → report
"""
