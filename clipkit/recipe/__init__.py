"""Recipes: YAML to typed settings, and the run they describe.

A recipe is checked as a whole before anything is loaded, and all its problems are told together.
"""

from clipkit.recipe.plan import Plan
from clipkit.recipe.read import find_recipe, read_recipe

__all__ = ["Plan", "find_recipe", "read_recipe"]
