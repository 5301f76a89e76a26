from BC_training.common import console
from BC_training.train import main

console.run(main)
