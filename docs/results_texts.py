"""What docs/results.md says around its tables."""

SHIPPED = """# Results

Every figure here was measured by a command that is named, on the machine that is named; none is
meant to hold elsewhere. Written by `docs/make_results.py` from `benchmarks/results/`.

## Configurations at the size they ship with

`uv run python -m benchmarks.configs` records 96 fights of the arena's expert at 256x144 (at 15
percent of the ticks other buttons are pressed than it chose), trains each shipped configuration
for {passes} passes and has it fight 50 fresh seeds beside the expert, which wins {expert} percent
of them. Measured on one {device}; {at_once} rows shared it, so that their minutes, compiling and
fights included, are an upper bound. Offline figures are those of the last pass, fights those of the
best checkpoint.

"""
SHIPPED_READ = """
With the game state one frame is enough. From pictures alone, start with temporal_cnn: a row of it
took 6 minutes, and its three seeds won 80 to 88 percent where the expert wins 96. Class weights,
which pure_cnn keeps because it is the baseline, cost it half of its fights: the same network
without them won 70 [56, 81] percent (read from the log of a row that was cut off once its own
fights were over). The rows that are missing were cut off by the end of the machine's time: after
four of five passes temporal_lstm had macro F1 0.750 and onset F1 0.802 on the validation split, vla
0.697 and 0.771; after two, temporal_transformer 0.691 and 0.762. They have not fought at this
size.

"""
THROUGHPUT = """## Images a second on a GPU

`uv run python -m benchmarks.throughput` times the whole training step on one batch over and over,
and `uv run python -m benchmarks.input_wait` the default pure_cnn at 144x256 in batches of 32, fed
by each residency. On one {device}, JAX {jax}, where a matrix product reaches {float32:.0f} TFLOP/s
in float32 (TF32) and {bfloat16:.0f} in bfloat16:

"""
THROUGHPUT_READ = """
The last column is the median of each round's own ratio. Up to 40 of the 100 timed batches were
read before the clock started, which flatters `stream`; the benchmark uses those up first now, and
was not run again on a GPU.

bfloat16 gains next to nothing in networks as narrow as these: a step moves memory and starts
kernels, it does not wait for the matrix units.

"""
ZOO = """## Models in fights

`uv run python -m benchmarks.model_zoo` records {recordings} fights of the arena's expert at
{resolution} (at {disturbed:.0f} percent of the ticks other buttons are pressed than it chose,
`--disturb`), trains each model for the same number of steps (batches of {batch}) on the same split,
and has it fight the same {fights} seeds. Models are small ones, made for two CPU cores ({device}),
and get one pass over the recordings. Frames a second are those of training; in brackets are 95
percent intervals: Wilson's for fights won, a bootstrap for health.

"""
ZOO_READ = """
Exact match ranks repeating the previous action above every model, and it never wins: look at onset
F1 (was a button pressed when the player pressed it, within two ticks), and at fights.

What decides most is the game state, which tells how long the boss's current animation has been
playing. From pictures alone, looking back is what wins: temporal_cnn, which sees the maps of eight
ticks one on another, wins 72 percent after one pass, where no model of one frame wins more than 4,
and 88 after three. Models that squeeze each tick into a vector before they compare ticks need
longer: the LSTM goes from 4 to 64. Larger backbones on one frame do not help. Frames a second were
noted while other work ran on the same two cores, most of all for resnet and efficientnet: too low,
and not to be compared.
"""
INSTRUCTIONS = """## A policy that is told how to play

`uv run python -m benchmarks.instructions` records {recordings} fights in the expert's four styles,
each with an instruction, trains the vla on them (passes: {epochs}), and has it fight the same
{fights} seeds under one instruction of each style, beside the expert in that style.

"""
DECISIONS = """## The same networks, decided otherwise

`uv run python -m benchmarks.decisions`: what the section `play` of a configuration (or `--play` of
`BC_training.rollout`) makes of two networks of the table above. Exact match and onset F1 are of the
recorded validation fights, played to the policy tick by tick. `temperature`, `hysteresis`,
`min_hold` and `min_release` are keys no more, for what this table says of them.

"""
DECISIONS_READ = """
The calibrated thresholds stand. Sampling presses twice as often and wins less; hysteresis gives the
best onset F1 and wins less than half as many fights. Holding a button for three ticks or leaving it
up for three is within what chance explains, and so are ensembled chunks.

"""
ABLATION = """## One change at a time

`uv run python -m benchmarks.ablation`: the temporal transformer on pictures alone, {recordings}
recorded fights, one pass, {fights} fights each. Too little for it to win, so look at health.

"""
ABLATION_READ = """
What misleads most is in the third row: past actions give by far the best offline figures and play
worse than none, for the policy learns to repeat itself. Augmentation and patches did harm in so
short a training. One tick alone and more weight on ticks at which buttons change played better than
the model as it is, at worse offline figures; their intervals just touch. The other rows lie within
what chance explains.
"""

CORRECTED = """
## What correcting a clone gives

`uv run --group vizdoom python -m benchmarks.corrections`: every row is trained on the same number
of fights ({recorded}) for the same number of gradient steps ({steps}) and fights the same {fights}
seeds, once for each seed of its training. *plain* are fights of the expert, *disturbed* those in
which at some ticks other buttons were pressed than it chose. *rounds* begins with {recordings}
plain ones; then, {rounds} times, the clone has {corrections} fights in which the expert says at
each tick what should be pressed (DAgger), and training goes on from its parameters on all of it.
*trained anew* learns from the same fights, from random parameters. Intervals are of all seeds'
fights together; behind them, the mean of each seed. Measured on a CPU ({machine[cpu]}), but for the
first row a core each.

"""
CORRECTED_READ = """
In the arena corrections are worth more than recordings. Trained anew on them, the clone won 83
percent of its fights; with as many disturbed recordings 64, with plain ones 51 (of the same seeded
fights 41 against 13, and 55 against 8, were won by it alone; sign tests, p below 0.001). They are
also fewer ticks, for the first clones die early: 76,000 against 85,000 and 91,000. Going on from
the clone's parameters round by round, in the same number of steps in all, gives less of it: 69,
which is not told apart from disturbed recordings (32 against 25) and is less than training anew
(13 against 34, p 0.003). A single-frame clone had gained nothing from such rounds; temporal_cnn,
which can tell time, does. Offline figures say none of this: onset F1 is highest for plain
recordings, which hold none of the states in which a clone goes wrong.

In take_cover little is told apart: all rows have about half of the expert's return of 2,067.
Training anew on corrections equals disturbed recordings (67 games better, 70 worse) though it has
a quarter fewer ticks to learn from, 53,000 against 69,000: a clone's game ends when it is hit too
often, so that its 48 games hold 20,000 ticks where as many of the expert's hold 49,000. Going on
from the clone's parameters is worse than disturbed recordings (59 against 84, p 0.04). Rounds that
count ticks, not games, were not tried. Each row is trained for about one pass; both games have an
expert that can be asked at every tick, which a person can't.
"""
EXPORTED = """## Policies that left the training machine

`uv run --python 3.11 --group export python -m benchmarks.export` exports every model with every
backbone, untrained and with random statistics, and replays a recorded fight of {ticks} ticks at
64x36 with memory carried, in JAX {machine[jax]} and in onnxruntime {machine[onnxruntime]}: the
largest difference of a probability, and how many of all decisions were others. Milliseconds are
those of the fastest tick, for the machine ({machine[cpu]}, {machine[cores]} cores) did other work
too; JAX and onnxruntime took turns. Pretrained weights change no row: they have the same shapes.

"""
ELSEWHERE = """
`uv run --python 3.11 --group export python -m benchmarks.player` has checkpoints trained in the
arena fight as `BC_training.rollout` has them fight. Against that it holds, tick by tick, the same
fights of the policy exported, in an environment of the group `play` alone (JAX and zarr can't be
imported there); served over loopback; and exported with weights in half precision. The number of
fights in which the same was pressed at every tick (the machine was busy, and not equally so in each
column: compare no milliseconds but the last two):

"""

SPLIT = """
## Any number of devices and hosts

`uv run python -m benchmarks.same_result` trains small forms of three models at 64x36 for 50 steps
of 16 samples on one device, on eight, on two hosts of four and on four hosts of two. Devices are
virtual and hosts are processes, all on a CPU. "each in turn" went on from 2 x 4 to 1 x 1, 1 x 8,
2 x 2 and 2 x 4, an epoch on each. The order of samples is {order}. Largest differences from one
device, of a loss and of a parameter:

"""
SPLIT_READ = """
"one, disturbed" is one device again, the largest of three trainings, with every parameter changed
by about 1e-7 of itself before the first step, as another rounding would. At 1e-3 with 250 steps of
warm-up (the default, an epoch, is longer for any dataset but the smallest) losses agree within 1e-5
and parameters within 1e-4. In harsher schedules batch norm, Adam and units of a ReLU that are just
at its kink let any rounding grow: layouts then come no further from one device than it comes from
itself, but for a factor of 1.3 in one case where the bounds are passed. A bias of attention's keys
is not counted: it moves all of a softmax alike, so that no output depends on it, and its gradient
is rounding alone, of which Adam makes whole steps. A run that goes on where it was, on as many
devices and hosts, equals an uninterrupted one bit for bit.
"""
SCALING = """
On one device nothing is split, and it costs nothing: in nine runs in turn of this code and of
commit a05e938, which knew one device only, a step of the default pure_cnn at 144x256 takes 210.2
and 210.2 ms of processor time (mean of each run's 10th percentile; the machine was too busy to
compare times of day), and one of a tiny network 1.77 and 1.74 ms (median of five runs' fastest).

`uv run python -m benchmarks.scaling` trains the default pure_cnn at 144x256 on {device}, in
batches of {batch}. The devices are virtual, on the same {cores} cores: this measures what splitting
costs, never what it gains. (The machine was busy: compare the ratios, which are medians of each
round's own, not the speeds.)

"""
