"""Two ViZDoom scenarios with scripted experts: gymnasium.make("vizdoom_games:TakeCover-v0").

ViZDoom comes with the dependency group `vizdoom`.
"""

import gymnasium

gymnasium.register("TakeCover-v0", entry_point="vizdoom_games.env:TakeCover")
gymnasium.register("DefendTheCenter-v0", entry_point="vizdoom_games.env:DefendTheCenter")
