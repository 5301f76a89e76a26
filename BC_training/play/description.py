"""A checkpoint in the words of an exported policy, which both players read."""

from BC_training.checkpoints.bundle import Bundle, revision, versions
from BC_training.play.policy import observation_spec
from ranni_player.manifest import Manifest


def describe_policy(bundle: Bundle) -> Manifest:
    """Returns what a player must know of a checkpoint, but for the files of an exported network."""
    spec, preprocess = observation_spec(bundle), bundle.preprocess
    instructions: dict[str, list[int]] = {}
    if preprocess.instructions is not None:
        texts = (bundle.config.dataset.instruction, *preprocess.instructions.known)
        instructions = {
            text: preprocess.instructions.encode(text).tolist() for text in texts if text
        }
    state = None
    if spec.attributes and preprocess.state is not None:
        state = preprocess.state.model_dump(mode="json")
    return Manifest(
        model=bundle.config.model.name,
        actions=list(bundle.spec.actions),
        rule=bundle.config.play.rule,
        thresholds=list(bundle.thresholds),
        frame=bundle.spec.frame.model_dump(mode="json"),
        attributes=list(spec.attributes),
        state=state,
        past_actions=spec.past_actions,
        instructions=instructions,
        inputs={},
        memory={},
        precision="float32",
        golden="",
        network_sha256="",
        golden_sha256="",
        revision=revision() or "unknown",
        versions=versions(),
        proof={},
    )
