"""The record of a conversion: written, read again, and held against what there is."""
