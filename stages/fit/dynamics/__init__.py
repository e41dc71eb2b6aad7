"""MDR: what comes before and after a frame, learnt from the order of frames alone."""
