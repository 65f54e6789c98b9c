// Converts a model of llama2.c to a folder that this library and Hugging Face's transformers load:
//
//     convert_llama2c stories260K.bin tok512.bin stories260k/
#include "llama2c.hpp"

#include <cstdio>
#include <exception>
#include <offsite/io/staged_folder.hpp>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: convert_llama2c MODEL.bin TOKENIZER.bin FOLDER\n");
    return 2;
  }
  try {
    offsite::StagedFolder folder(argv[3]);
    const auto size = llama2c::convert_model(argv[1], folder.path());
    llama2c::convert_tokenizer(argv[2], size, folder.path());
    folder.commit();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "convert_llama2c: %s\n", error.what());
    return 1;
  }
}
