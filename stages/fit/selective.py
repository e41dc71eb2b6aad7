"""Selective sharing: two tasks, two small networks, and gates between them.

Source: "Selective feature sharing for facial expression recognition and synthesis" (paper 1 of
papers.md; its abstract alone was read): a network for each of two tasks, and gated transfer of
features between them, so that each takes of the other what serves it. Ours: the tasks are the score
and an attribute column of the labels, the input is a clip's time average, and the gates are
sigmoids of both towers' features, one for each channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from stages.fit.batches import ClipData
from stages.fit.plain import Arrays
from stages.fit.pooled_base import PooledModel, Sample, number, refuse_unknown
from stages.fit.summaries import FloatArray, time_average

VALIDATION = 0.15
BATCH = 64
LEAST_EPOCHS = 5


class GatedTowers(nn.Module):
    """Two towers over one input; each adds what a gate lets through of the other's features.

    With h_a, h_b = ReLU of linear maps of the input, h_a' = h_a + sigmoid(G_a [h_a, h_b]) * T_a h_b
    and the same for b.

    Parameters
    ----------
    inputs, channels, classes : int
    dropout : float
    """

    def __init__(self, inputs: int, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Linear(inputs, channels) for _ in "ab")
        self.gates = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in "ab")
        self.transfers = nn.ModuleList(nn.Linear(channels, channels) for _ in "ab")
        self.hide = nn.Dropout(dropout)
        self.score = nn.Linear(channels, 1)
        self.attribute = nn.Linear(channels, classes)

    def gate(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return both towers' features and both gates' openings in [0, 1], each (B, channels)."""
        h = [self.hide(torch.relu(tower(x))) for tower in self.towers]
        both = torch.cat(h, dim=1)
        return h, [torch.sigmoid(gate(both)) for gate in self.gates]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,) and the attribute's logits (B, classes) of inputs (B, D)."""
        h, gates = self.gate(x)
        a = h[0] + gates[0] * self.transfers[0](h[1])
        b = h[1] + gates[1] * self.transfers[1](h[0])
        return self.score(a).squeeze(1), self.attribute(b)


class SelectiveSharing(PooledModel):
    """Two towers, for the score and for an attribute column, that share features through gates.

    Trained by AdamW on squared errors of the standardised label plus ``weight`` times the
    attribute's cross-entropy. 15 % of the training clips choose the epoch (lowest squared error),
    then it is trained again on all of them for as many; ``members`` networks of different seeds are
    averaged.

    Parameters
    ----------
    name, seed
    attribute : str
        Column of the labels; ``gender`` if left out.
    weight : float
        Of the attribute's loss; 0: a network for the score alone, which nothing flows into.
    channels, members, epochs : int
    dropout, lr : float
    """

    options = ("attribute", "weight", "channels", "members", "epochs", "dropout", "lr")

    def __init__(self, name: str = "selective", seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed)
        refuse_unknown(name, options, self.options)

        def read(option: str, default: float, low: float, high: float = np.inf) -> float:
            return number(name, option, options.get(option, default), low, high)

        self.attribute = str(options.get("attribute", "gender"))
        self._weight = read("weight", 0.3, 0)
        self._channels = int(read("channels", 128, 1))
        self._members = int(read("members", 3, 1))
        self._epochs = int(read("epochs", 60, LEAST_EPOCHS))
        self._dropout = read("dropout", 0.4, 0, 0.95)
        self._lr = read("lr", 1e-3, 1e-8)
        self._networks: list[GatedTowers] = []
        self._mean = self._sd = np.zeros(0)

    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        return time_average(clip)

    def _fit(self, sample: Sample) -> None:
        self._mean, sd = sample.x.mean(axis=0), sample.x.std(axis=0)
        self._sd = np.where(sd > 1e-9, sd, 1.0)
        x, y = self._tensor(sample.x), torch.tensor(sample.target, dtype=torch.float32)
        z = torch.tensor(sample.attribute)
        some = np.arange(len(x))
        seen, left = train_test_split(
            some, test_size=max(VALIDATION, 1 / len(x)), random_state=self.seed
        )
        self._networks = []
        with torch.random.fork_rng():
            _, epoch = self._train(x[seen], y[seen], z[seen], self._epochs, 0, (x[left], y[left]))
            for member in range(self._members):
                network, _ = self._train(x, y, z, epoch, member)
                self._networks.append(network)
        self.strength = {"epochs": float(epoch)}

    def _train(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        epochs: int,
        member: int,
        held: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[GatedTowers, int]:
        """Train one network; return it and the epoch with the lowest error on clips held out."""
        torch.manual_seed(self.seed + 1000 * member)
        network = GatedTowers(x.shape[1], self._channels, len(self.values), self._dropout)
        optimiser = torch.optim.AdamW(network.parameters(), self._lr, weight_decay=0.05)
        # By the longest it could take, so that the second training steps as the first one did.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._epochs)
        best, chosen = np.inf, epochs
        for epoch in range(1, epochs + 1):
            network.train()
            for rows in torch.randperm(len(x)).split(BATCH):  # type: ignore[no-untyped-call]
                score, logits = network(x[rows])
                loss = nn.functional.mse_loss(score, y[rows])
                loss = loss + self._weight * nn.functional.cross_entropy(logits, z[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            if held is not None and epoch >= LEAST_EPOCHS:
                network.eval()
                with torch.no_grad():
                    error = float(((network(held[0])[0] - held[1]) ** 2).mean())
                if error < best:
                    best, chosen = error, epoch
        return network.eval(), chosen

    def _tensor(self, x: FloatArray) -> Tensor:
        return torch.tensor((x - self._mean) / self._sd, dtype=torch.float32)

    def _outputs(self, x: FloatArray) -> tuple[Tensor, Tensor]:
        """Scores (n,) and probabilities of the attribute's values (n, values), means of members."""
        given = self._tensor(x)
        with torch.no_grad():
            outputs = [network(given) for network in self._networks]
        scores = torch.stack([score for score, _ in outputs]).mean(dim=0)
        return scores, torch.stack([logits.softmax(dim=1) for _, logits in outputs]).mean(dim=0)

    def _predict(self, x: FloatArray) -> FloatArray:
        return np.asarray(self._outputs(x)[0].double().numpy(), np.float64)

    def predict_attribute(self, clips: Iterable[ClipData]) -> npt.NDArray[np.str_]:
        """Return the attribute's word that is most probable for each clip; '' without a face."""
        x, seen = self._seen(clips)
        found = np.full(len(x), "", dtype=np.asarray(self.values).dtype)
        if seen.any():
            found[seen] = np.asarray(self.values)[self._outputs(x[seen])[1].argmax(dim=1).numpy()]
        return found

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return scaling and weights."""
        arrays = {
            f"{member}.{key}": tensor.numpy()
            for member, network in enumerate(self._networks)
            for key, tensor in network.state_dict().items()
        }
        return {}, {**arrays, "mean": self._mean, "sd": self._sd}

    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""
        self._mean, self._sd = arrays["mean"], arrays["sd"]
        self._networks = []
        for member in range(self._members):
            network = GatedTowers(self._width, self._channels, len(self.values), self._dropout)
            prefix = f"{member}."
            network.load_state_dict(
                {
                    key.removeprefix(prefix): torch.from_numpy(array)
                    for key, array in arrays.items()
                    if key.startswith(prefix)
                }
            )
            self._networks.append(network.eval())
