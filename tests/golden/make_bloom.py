"""Makes the golden values of BLOOM: see hugging_face.py.

    python tests/golden/make_bloom.py
"""

from transformers import BloomConfig, BloomForCausalLM

from hugging_face import make_all

CONFIGURATIONS = {
    "four_heads": dict(hidden_size=16, n_head=4, n_layer=3, vocab_size=37),
    "three_heads": dict(hidden_size=21, n_head=3, n_layer=2, vocab_size=41, layer_norm_epsilon=1e-6),
    "normed_residual": dict(hidden_size=18, n_head=6, n_layer=2, vocab_size=29,
                            apply_residual_connection_post_layernorm=True),
    "twelve_heads_untied": dict(hidden_size=24, n_head=12, n_layer=2, vocab_size=31, tie_word_embeddings=False),
}

if __name__ == "__main__":
    make_all("bloom", BloomForCausalLM, BloomConfig, CONFIGURATIONS, 42)
