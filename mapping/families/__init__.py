"""One module for each model type; `tfreader.mapping.family` finds them."""
