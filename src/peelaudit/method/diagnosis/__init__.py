"""Which layer: what tells it by looks, by slopes and by repairs, and when one is named."""
