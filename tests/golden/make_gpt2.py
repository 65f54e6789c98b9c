"""Makes the golden values of GPT-2: see hugging_face.py.

    python tests/golden/make_gpt2.py
"""

from transformers import GPT2Config, GPT2LMHeadModel

from hugging_face import make_all

CONFIGURATIONS = {
    "odd_width": dict(n_embd=33, n_head=3, n_layer=2, vocab_size=61, n_positions=40),
    "five_heads": dict(n_embd=20, n_head=5, n_layer=3, vocab_size=37, n_positions=24, n_inner=52,
                       activation_function="relu"),
    "inverse_layer": dict(n_embd=48, n_head=3, n_layer=2, vocab_size=53, n_positions=44, n_inner=71,
                          scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    "untied": dict(n_embd=32, n_head=2, n_layer=2, vocab_size=45, n_positions=96, tie_word_embeddings=False,
                   activation_function="gelu", layer_norm_epsilon=1e-6),
    "unscaled": dict(n_embd=21, n_head=7, n_layer=2, vocab_size=29, n_positions=20, scale_attn_weights=False,
                     activation_function="silu"),
    "quick": dict(n_embd=24, n_head=1, n_layer=2, vocab_size=31, n_positions=48, activation_function="quick_gelu"),
    "tanh": dict(n_embd=16, n_head=4, n_layer=2, vocab_size=23, n_positions=16, activation_function="tanh",
                 tie_word_embeddings=False),
}

if __name__ == "__main__":
    make_all("gpt2", GPT2LMHeadModel, GPT2Config, CONFIGURATIONS, "n_positions", attn_pdrop=0.0, resid_pdrop=0.0,
             embd_pdrop=0.0, bos_token_id=0, eos_token_id=0)
