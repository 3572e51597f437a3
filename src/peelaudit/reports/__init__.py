"""All that is done with finished reports, without torch: gated, compared, drawn, written."""
