"""A reference network as it learns: its first layers frozen if asked for, its feature noisy, auxiliary losses on it."""

from __future__ import annotations

from torch import Tensor, nn

from cloud.networks.networks import ReferenceNetwork, split
from train.loop.distributed import Workers
from train.networks.auxiliary_losses import Appearance, CategoryHead
from train.networks.network_recipe import DenseRecipe, NetworkRecipe


class Learner:
    """A network in training.

    module: everything that learns; the network itself if no auxiliary loss does.
    categories: number of image categories that the feature must distinguish; 0: none.
    """

    def __init__(
        self,
        network: ReferenceNetwork,
        recipe: NetworkRecipe | DenseRecipe,
        workers: Workers,
        categories: int = 0,
    ) -> None:
        self.network, self._workers = network, workers
        self.front, self.tail = split(network, network.split_layer)
        self._frozen = split(network, recipe.freeze)[0].requires_grad_(False)
        self._recipe = recipe
        channels = recipe.network.feature_channels
        self._appearance = Appearance(channels) if recipe.appearance else None
        self._category = CategoryHead(channels, categories) if categories else None
        # The names stand in checkpoints, "things" for historical reasons.
        parts = {"network": network, "appearance": self._appearance, "things": self._category}
        learning = {name: part for name, part in parts.items() if part is not None}
        self.module: nn.Module = nn.ModuleDict(learning) if len(learning) > 1 else network

    def train(self) -> None:
        """Switches to training mode; frozen layers stay as they are, their normalisation included."""
        self.module.train()
        self._frozen.eval()

    def feature(self, x: Tensor, categories: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """x (B, 3, H, W) -> the feature (B, C, H/s, W/s), and the auxiliary losses on it.

        categories (B,): of the images, for the loss of the category head.
        """
        y = self.front(x)
        if self._recipe.noise:
            deviation = self._workers.variance(y, (0, 2, 3)).sqrt()
            y = y + self._recipe.noise * deviation * self._workers.randn_like(y)
        auxiliary: Tensor | float = 0.0
        if self._appearance is not None:
            distance = self._appearance.distance(y, x, self._workers.variance)
            auxiliary = auxiliary + self._recipe.appearance * distance
        if self._category is not None and categories is not None:
            assert isinstance(self._recipe, DenseRecipe)  # alone has categories
            auxiliary = auxiliary + self._recipe.category * self._category.distance(y, categories)
        return y, auxiliary
