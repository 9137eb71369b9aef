"""`isthmus bench privacy`: how much of the image an attacker gets back from the bytes."""
