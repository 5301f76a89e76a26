"""A run's folder has one writer, stays where it is, and its configuration is never half there."""

import pytest

from BC_training.common import config_file
from BC_training.training.run_folder import OWNER, claimed
from gameplay_pipeline.plumbing.errors import UserError


@pytest.fixture
def config():
    return config_file.validate(
        {"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}}, "the test"
    )


def test_a_second_writer_is_told_who_the_first_is(tmp_path, config):
    folder = tmp_path / "run"
    with claimed(folder, config, resume=False):
        for resume in (False, True):
            with (
                pytest.raises(UserError, match=r"process \d+ on .* is writing this run"),
                claimed(folder, config, resume=resume),
            ):
                pass
        assert (folder / "config.yaml").exists()
    with claimed(folder, config, resume=True):
        assert (folder / OWNER).exists()


def test_an_earlier_run_is_moved_aside_and_a_link_stays_one(tmp_path, config):
    (tmp_path / "elsewhere" / "run").mkdir(parents=True)
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path / "elsewhere" / "run")
    with claimed(folder, config, resume=False):
        (folder / "of_the_first").touch()
    with claimed(folder, config, resume=False):
        assert not (folder / "of_the_first").exists()
    assert folder.is_symlink()
    (aside,) = (tmp_path / "elsewhere").glob("run.*")
    assert (aside / "of_the_first").exists()


def test_a_run_of_an_earlier_version_goes_on(tmp_path, config):
    folder = tmp_path / "run"
    with claimed(folder, config, resume=False):
        pass
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("training:\n", "training:\n  oversample_rare: 1\n"))
    with claimed(folder, config, resume=True):
        pass
    other = config.model_copy(
        update={"training": config.training.model_copy(update={"learning_rate": 0.5})}
    )
    with (
        pytest.raises(UserError, match=r"training\.learning_rate: 0\.001 then, 0\.5 now"),
        claimed(folder, other, resume=True),
    ):
        pass
