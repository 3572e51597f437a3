"""Reference blocks: in closed form (moments, ridge, features, closed_form) and by gradient (adam)."""
