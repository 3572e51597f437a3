"""Whether the checkpoints of a training run are the steps that they are called, as far as their reports tell.

    same weights      two steps with every block's weights and every loss in common
    shared layers     two steps with some blocks in common and not the others: a shard of another step
    out of line       a step far from both its neighbours, which are near each other
    jump              a step from which on the run is elsewhere, and no better
    loss goes back    steps whose held-out loss is above that of an earlier one
    misnamed          names that say other steps than the checkpoints record

What is far is taken from the run itself. Each step has a profile, its held-out losses under its own head after every
layer, cluster by cluster; how far two steps are from each other is the root mean square of the difference of theirs,
nats/token. A step moves that far from the one before, and `FAR` times what the moves around it are is far. A rise of
the loss counts if its paired interval is above the audits' tolerance, and if it is over twice `FAR` times the median of
the other rises from one step to the next, which are the run's noise. Nothing within the tolerance is a move or a rise.
Of a run in which every step is what it is called and learns something there is nothing to say.
"""
