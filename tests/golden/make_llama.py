"""Makes the golden values of the Llama family: see hugging_face.py.

    python tests/golden/make_llama.py
"""

from transformers import (GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

from hugging_face import make_all

SHORT = dict(num_hidden_layers=2, attention_dropout=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=None)

LLAMA = {
    "llama_grouped": dict(hidden_size=18, num_attention_heads=6, num_key_value_heads=2, head_dim=4, intermediate_size=23,
                          vocab_size=31, max_position_embeddings=40),
    "llama_biased": dict(hidden_size=21, num_attention_heads=3, head_dim=6, intermediate_size=17, vocab_size=29,
                         max_position_embeddings=37, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                         hidden_act="gelu"),
    "llama_linear": dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=1, intermediate_size=20,
                         vocab_size=27, max_position_embeddings=48, rms_norm_eps=1e-5,
                         rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=500.0)),
    "llama_llama3": dict(hidden_size=16, num_attention_heads=2, intermediate_size=19, vocab_size=25,
                         max_position_embeddings=60,
                         rope_parameters=dict(rope_type="llama3", factor=4.0, rope_theta=300.0, low_freq_factor=1.0,
                                              high_freq_factor=4.0, original_max_position_embeddings=24)),
    "llama_yarn": dict(hidden_size=16, num_attention_heads=1, intermediate_size=21, vocab_size=25,
                       max_position_embeddings=52,
                       rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=10000.0,
                                            original_max_position_embeddings=13)),
    "llama_yarn_scaled": dict(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, intermediate_size=16,
                              vocab_size=23, max_position_embeddings=44,
                              rope_parameters=dict(rope_type="yarn", factor=3.0, rope_theta=50.0, beta_fast=4.0,
                                                   beta_slow=0.5, mscale=1.5, mscale_all_dim=0.7, truncate=False,
                                                   original_max_position_embeddings=16)),
}
BEYOND = {  # sequences of 45 tokens, of 21 and of 15
    "llama_dynamic": dict(hidden_size=16, num_attention_heads=2, intermediate_size=18, vocab_size=25,
                          max_position_embeddings=24, rope_parameters=dict(rope_type="dynamic", factor=2.0,
                                                                           rope_theta=1000.0)),
}
MISTRAL = {
    "mistral_window": dict(hidden_size=20, num_attention_heads=5, num_key_value_heads=1, head_dim=6,
                           intermediate_size=27, vocab_size=33, max_position_embeddings=50, sliding_window=7),
    "mistral_plain": dict(hidden_size=12, num_attention_heads=2, num_key_value_heads=2, intermediate_size=16,
                          vocab_size=21, max_position_embeddings=30, sliding_window=None),
}
QWEN2 = {
    "qwen2_tied": dict(hidden_size=20, num_attention_heads=2, num_key_value_heads=1, intermediate_size=26, vocab_size=37,
                       max_position_embeddings=42, tie_word_embeddings=True),
    "qwen2_windows": dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=15,
                          vocab_size=24, max_position_embeddings=40, use_sliding_window=True, sliding_window=5,
                          max_window_layers=1),
}
QWEN3 = {
    "qwen3_normed": dict(hidden_size=15, num_attention_heads=4, num_key_value_heads=2, head_dim=6, intermediate_size=22,
                         vocab_size=35, max_position_embeddings=40),
    "qwen3_biased": dict(hidden_size=14, num_attention_heads=2, num_key_value_heads=1, head_dim=10, intermediate_size=18,
                         vocab_size=22, max_position_embeddings=36, attention_bias=True, tie_word_embeddings=True,
                         use_sliding_window=True, sliding_window=9,
                         layer_types=["sliding_attention", "full_attention"]),
}
GEMMA = {
    "gemma": dict(hidden_size=18, num_attention_heads=3, num_key_value_heads=1, head_dim=8, intermediate_size=25,
                  vocab_size=30, max_position_embeddings=40),
}

if __name__ == "__main__":
    for model_type, config_type, configurations, context in [
            (LlamaForCausalLM, LlamaConfig, LLAMA, "max_position_embeddings"),
            (LlamaForCausalLM, LlamaConfig, BEYOND, 45),
            (MistralForCausalLM, MistralConfig, MISTRAL, "max_position_embeddings"),
            (Qwen2ForCausalLM, Qwen2Config, QWEN2, "max_position_embeddings"),
            (Qwen3ForCausalLM, Qwen3Config, QWEN3, "max_position_embeddings"),
            (GemmaForCausalLM, GemmaConfig, GEMMA, "max_position_embeddings")]:
        make_all("llama", model_type, config_type, configurations, context, **SHORT)
