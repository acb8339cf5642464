"""Python imports this first where PYTHONPATH names this folder: every such process has the made-up model."""

from farm.domain import catalogue
from tests.new_model.sketch import SKETCH

catalogue.MODELS = (*catalogue.MODELS, SKETCH)
