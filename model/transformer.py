"""GLM-5's network: forward pass, losses and log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.linear_cross_entropy import linear_cross_entropy, weighted_cross_entropy
from kernels.rope import rope_table
from model.attention import AttentionContext
from model.config import ModelConfig
from model.decoder import Decoder, StackOutput
from model.initialise import initialise
from model.layers import Linear
from model.moe import MoE
from model.mtp import MultiTokenPredictor
from model.packing import Packing

MODES = ("dense", "warmup", "sparse")


@dataclass(frozen=True)
class Output:
    """logits [B, T, V]; hidden [B, T, hidden] after the final norm; indexer_loss scalar (0 in dense mode);
    expert_load [MoE layers, E]: tokens routed to each expert."""

    logits: Tensor
    hidden: Tensor
    indexer_loss: Tensor
    expert_load: Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars in nats a token; `total` is what to differentiate. expert_load [MoE layers (and MTP's), E]."""

    lm: Tensor
    mtp: Tensor
    indexer: Tensor
    total: Tensor
    expert_load: Tensor


class Transformer(nn.Module):
    """A decoder whose parameters are named as in transformers' `GlmMoeDsaForCausalLM`, plus the MTP layer `mtp`.

    Where a call names no attention mode, it is the one of `config.attention`.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0) -> None:
        """Weights as `init_weights(seed)` draws them, on torch's default device.

        seed None leaves them as the memory was: for who fills every one of them next, as loading does.
        Raises MemoryError where they do not fit.
        """
        super().__init__()
        self.config = config
        device = torch.get_default_device()
        with torch.device("meta"):  # no part draws weights of its own
            self.model = Decoder(config)
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
            self.mtp = MultiTokenPredictor(config) if config.num_nextn_predict_layers else None
        if device.type != "meta":
            self.allocate(device)
            if seed is not None:
                self.init_weights(seed)

    def allocate(self, device: torch.device) -> None:
        """Memory, not written to, for a network that was outlined on the meta device; MemoryError where it lacks."""
        try:
            self.to_empty(device=device)
        except RuntimeError as error:
            size = sum(value.nbytes for value in self.state_dict().values())
            raise MemoryError(f"The network's weights need {size / 1e9:.1f} GB, more than {device} has.") from error

    def init_weights(self, seed: int) -> None:
        """Draws every weight anew; the same seed gives the same weights."""
        initialise(self, seed, self.config.initializer_range)

    def forward(self, token_ids: Tensor, document_ids: Tensor | None = None, mode: str | None = None) -> Output:
        """Logits of the token after each of token_ids [B, T].

        document_ids [B, T]: runs of equal ids are separate documents (positions restart, no attention across).
        mode: "dense" (indexer unused), "warmup" (dense attention, only the indexer has gradients), "sparse", or None
        for what the configuration says.
        """
        context = self._context(token_ids, document_ids, mode)
        with torch.set_grad_enabled(context.grad and context.mode != "warmup"):
            stack = self.model(token_ids, context)
            logits = self.lm_head(stack.hidden)
        return Output(logits, stack.hidden, _mean(stack.indexer_losses, logits), _stack(stack.expert_loads, logits))

    def loss(
        self, token_ids: Tensor, loss_weights: Tensor, document_ids: Tensor | None = None, mode: str | None = None
    ) -> Losses:
        """Training losses; loss_weights [B, T] weighs the prediction *of* each token.

        The first token of a document is never predicted, whatever its weight. `total` is lm + mtp_loss_weight * mtp
        + indexer; in warm-up it is the indexer's loss alone and the backbone gets no gradient.
        """
        context = self._context(token_ids, document_ids, mode)
        with torch.set_grad_enabled(context.grad and context.mode != "warmup"):
            stack = self.model(token_ids, context)
            lm = self._weighted_loss(stack.hidden, token_ids, loss_weights, context.packing, ahead=1)
            mtp = self._mtp_loss(stack, token_ids, loss_weights, context)
        indexer = _mean(stack.indexer_losses, lm)
        total = indexer if mode == "warmup" else lm + self.config.mtp_loss_weight * mtp + indexer
        return Losses(lm, mtp, indexer, total, _stack(stack.expert_loads, lm))

    def log_probs(self, token_ids: Tensor, document_ids: Tensor | None = None, mode: str | None = None) -> Tensor:
        """log p(token t | tokens before it in its document): [B, T] fp32, 0.0 for the first token of a document."""
        context = self._context(token_ids, document_ids, mode, teach=False)
        hidden = self.model(token_ids, context).hidden
        nll = self._next_token_loss(hidden, token_ids)
        return torch.where(context.packing.has_context, -nll.roll(1, 1), 0.0)

    @torch.no_grad()
    def update_router_bias(self, expert_load: Tensor) -> None:
        """Auxiliary-loss-free balancing after a training step; expert_load as `loss` or `forward` returned it."""
        routers = [module.gate for module in self.modules() if isinstance(module, MoE)]
        for router, load in zip(routers, expert_load, strict=False):
            router.balance(load.float())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Transformer:
        """Reads a Hugging Face folder; raises CheckpointError with one sentence when it is damaged."""
        from model.checkpoint import load_transformer

        return load_transformer(folder)

    def save_pretrained(self, folder: str | Path, extra_files: dict[str, bytes] | None = None) -> str:
        """Writes a Hugging Face folder in one step and returns the sha256 of model.safetensors."""
        from model.checkpoint import save_transformer

        return save_transformer(self, folder, extra_files or {})

    def _context(
        self, token_ids: Tensor, document_ids: Tensor | None, mode: str | None, teach: bool = True
    ) -> AttentionContext:
        mode = self.config.attention if mode is None else mode
        if mode not in MODES:
            raise ValueError(f"There is no attention mode '{mode}'; the modes are {', '.join(MODES)}.")
        packing = Packing.of(token_ids, document_ids)
        rope = rope_table(packing.positions, self.config.qk_rope_head_dim, self.config.rope_theta)
        learns = mode != "dense" and teach and self.indexer_learns
        return AttentionContext(packing, rope, mode, learns, torch.is_grad_enabled())

    @property
    def indexer_learns(self) -> bool:
        """False once the indexers are frozen (as in reinforcement learning); their loss is then not computed."""
        return any(p.requires_grad for name, p in self.named_parameters() if ".indexer." in name)

    def _next_token_loss(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """[B, T]: at t the loss of token t + 1; the last column is meaningless."""
        targets = token_ids.roll(-1, 1)
        nll = linear_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, targets.flatten())
        return nll.view_as(token_ids)

    def _weighted_loss(
        self, hidden: Tensor, token_ids: Tensor, loss_weights: Tensor, packing: Packing, ahead: int
    ) -> Tensor:
        usable = torch.where(packing.positions >= ahead, loss_weights, 0.0).roll(-ahead, 1)
        targets = token_ids.roll(-ahead, 1).flatten()
        total = weighted_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, targets, usable.flatten())
        return total / usable.sum().clamp(min=1e-9)

    def _mtp_loss(
        self, stack: StackOutput, token_ids: Tensor, loss_weights: Tensor, context: AttentionContext
    ) -> Tensor:
        """Mean loss of the MTP steps; their expert loads and indexer losses join those of the trunk.

        The layer is as dear as two of the trunk, and few rows teach it what it needs (`mtp_loss_rows`).
        """
        if self.mtp is None:
            return stack.hidden.new_zeros(())
        rows = self.config.mtp_loss_rows or token_ids.shape[0]
        hidden, losses, context = stack.hidden[:rows], [], context.first_rows(rows)
        token_ids, loss_weights = token_ids[:rows], loss_weights[:rows]
        for step in range(1, self.config.num_nextn_predict_layers + 1):
            embedding = self.model.embed_tokens(token_ids.roll(-step, 1))
            out = self.mtp.predict(hidden, embedding, context)
            hidden = out.hidden
            losses.append(self._weighted_loss(hidden, token_ids, loss_weights, context.packing, step + 1))
            stack.indexer_losses.extend([] if out.indexer_loss is None else [out.indexer_loss])
            stack.expert_loads.extend([] if out.expert_load is None or step > 1 else [out.expert_load])
        return torch.stack(losses).mean()


def _mean(losses: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(losses).mean() if losses else like.new_zeros(())


def _stack(loads: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(loads).float() if loads else like.new_zeros((0, 0))
