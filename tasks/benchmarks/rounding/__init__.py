"""Training in bfloat16 next to fp32: the arms, the agreement of gradients, the page."""
