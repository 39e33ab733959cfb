"""From a point of the relaxation to a mapping: stays in fast memory, copy times, addresses."""
