"""What is run on this tree by hand: see the scripts of the same folder."""
