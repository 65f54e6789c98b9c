"""Makes the golden values of GPT-NeoX: see hugging_face.py.

    python tests/golden/make_gpt_neox.py
"""

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hugging_face import make_all

CONFIGURATIONS = {
    "parallel": dict(hidden_size=30, num_attention_heads=3, num_hidden_layers=2, intermediate_size=44, vocab_size=37,
                     max_position_embeddings=40),
    "sequential": dict(hidden_size=18, num_attention_heads=3, num_hidden_layers=3, intermediate_size=35, vocab_size=29,
                       max_position_embeddings=31, use_parallel_residual=False, rotary_pct=1.0, hidden_act="gelu_new"),
    "half_rotary": dict(hidden_size=20, num_attention_heads=5, num_hidden_layers=2, intermediate_size=33, vocab_size=31,
                        max_position_embeddings=50, rotary_pct=0.5, rotary_emb_base=500, attention_bias=False,
                        hidden_act="relu", layer_norm_eps=1e-6),
    "tied": dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=23, vocab_size=41,
                 max_position_embeddings=24, tie_word_embeddings=True, hidden_act="gelu_fast",
                 rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.75)),
    "scaled": dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=40, vocab_size=27,
                   max_position_embeddings=36, use_parallel_residual=False,
                   rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=1000.0, partial_rotary_factor=0.5)),
}

if __name__ == "__main__":
    make_all("gpt_neox", GPTNeoXForCausalLM, GPTNeoXConfig, CONFIGURATIONS, "max_position_embeddings",
             attention_dropout=0.0, hidden_dropout=0.0)
