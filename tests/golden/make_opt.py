"""Makes the golden values of OPT: see hugging_face.py.

    python tests/golden/make_opt.py
"""

from transformers import OPTConfig, OPTForCausalLM

from hugging_face import make_all

CONFIGURATIONS = {
    "pre_norm": dict(hidden_size=21, num_attention_heads=3, num_hidden_layers=3, ffn_dim=50, vocab_size=41,
                     max_position_embeddings=30),
    "post_norm_projected": dict(hidden_size=24, num_attention_heads=2, num_hidden_layers=2, ffn_dim=64, vocab_size=37,
                                max_position_embeddings=41, do_layer_norm_before=False, word_embed_proj_dim=10),
    "no_final_norm": dict(hidden_size=20, num_attention_heads=5, num_hidden_layers=2, ffn_dim=33, vocab_size=29,
                          max_position_embeddings=19, _remove_final_layer_norm=True, activation_function="gelu",
                          word_embed_proj_dim=32, tie_word_embeddings=False),
    "bare": dict(hidden_size=16, num_attention_heads=4, num_hidden_layers=2, ffn_dim=48, vocab_size=31,
                 max_position_embeddings=36, enable_bias=False, layer_norm_elementwise_affine=False,
                 activation_function="gelu_new"),
    "untied": dict(hidden_size=22, num_attention_heads=1, num_hidden_layers=2, ffn_dim=40, vocab_size=43,
                   max_position_embeddings=48, tie_word_embeddings=False, do_layer_norm_before=False,
                   activation_function="silu"),
}

if __name__ == "__main__":  # token 1 is the padding, whose embedding Hugging Face does not train
    make_all("opt", OPTForCausalLM, OPTConfig, CONFIGURATIONS, "max_position_embeddings", first_id=2,
             dropout=0.0, attention_dropout=0.0)
