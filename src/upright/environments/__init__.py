"""From an id, a class or a callable to environments as the learner sees them."""
