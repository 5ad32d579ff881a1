"""The judge report: what a judge does to labelled pairs, on one page (`python -m training judge-report`)."""
