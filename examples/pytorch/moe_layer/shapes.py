# SPDX-License-Identifier: Apache-2.0
"""The expert layers of published models. Numbers are those of each model's config.json on the Hugging Face hub; weights are
taken as bf16 SwiGLU without bias, whatever the model stores (GPT-OSS has MXFP4 and biases, DeepSeek-V3 FP8), and shared experts,
which need not move, are left out."""
from __future__ import annotations

import dataclasses
from typing import Dict


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    inner: int
    experts: int
    top_k: int

    def expert_bytes(self, item: int) -> int:
        """Of one expert's w13 and w2."""
        return 3 * self.hidden * self.inner * item

    def flops(self, tokens: int) -> int:
        return tokens * self.top_k * 2 * 3 * self.hidden * self.inner


SHAPES: Dict[str, Shape] = {
    shape.name: shape
    for shape in (
        # allenai/OLMoE-1B-7B-0924: hidden_size, intermediate_size, num_experts, num_experts_per_tok
        Shape("olmoe", 2048, 1024, 64, 8),
        # Qwen/Qwen3-30B-A3B: hidden_size, moe_intermediate_size, num_experts, num_experts_per_tok
        Shape("qwen3-30b", 2048, 768, 128, 8),
        # openai/gpt-oss-120b: hidden_size, intermediate_size, num_local_experts, num_experts_per_tok
        Shape("gpt-oss-120b", 2880, 2880, 128, 4),
        # mistralai/Mixtral-8x7B-v0.1: hidden_size, intermediate_size, num_local_experts, num_experts_per_tok
        Shape("mixtral-8x7b", 4096, 14336, 8, 2),
        # deepseek-ai/DeepSeek-V3: hidden_size, moe_intermediate_size, n_routed_experts, num_experts_per_tok
        Shape("deepseek-v3", 7168, 2048, 256, 8),
    )
}


def find(name: str) -> Shape:
    """A shape by name, or HIDDEN:INNER:EXPERTS:TOP_K. ValueError names what there is."""
    if name in SHAPES:
        return SHAPES[name]
    parts = name.split(":")
    if len(parts) == 4 and all(part.isdigit() for part in parts):
        hidden, inner, experts, top_k = (int(part) for part in parts)
        if min(hidden, inner, experts, top_k) >= 1 and top_k <= experts:
            return Shape(name, hidden, inner, experts, top_k)
    raise ValueError(f"shape {name!r} is none of {', '.join(SHAPES)}, nor HIDDEN:INNER:EXPERTS:TOP_K with TOP_K <= EXPERTS")
